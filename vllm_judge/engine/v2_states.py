"""What the kernels of model runner V2 need of each request, by vLLM's request state index."""

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.buffer_utils import StagedWriteTensor, UvaBackedTensor

from vllm_judge.engine.dial import MAX_STOP_TOKEN_IDS
from vllm_judge.engine.judge import Judge
from vllm_judge.kernels.inputs import Thinking


class RequestStates:
    """Written on the host when a request comes, as vLLM's own SamplingStates.

    Where a request's reasoning stands is carried on by the kernels alone (`thinking`), since the host does not know the
    tokens of the last steps; it knows all of a request's tokens when the request is added, or added again after a
    preemption.
    """

    def __init__(self, judge: Judge, req_states: Any):
        """req_states: the runner's own."""
        self._judge, self._req_states = judge, req_states
        max_num_reqs, device = req_states.max_num_reqs, req_states.device
        self.threshold = UvaBackedTensor(max_num_reqs, dtype=torch.float32)
        self.raw_scale = UvaBackedTensor(max_num_reqs, dtype=torch.float32)
        self.shadow = UvaBackedTensor(max_num_reqs, dtype=torch.uint8)
        self.num_stop_token_ids = UvaBackedTensor(max_num_reqs, dtype=torch.int32)
        self.stop_token_ids = StagedWriteTensor((max_num_reqs, MAX_STOP_TOKEN_IDS), dtype=torch.int32, device=device)
        self._staged: list[StagedWriteTensor] = [self.stop_token_ids]
        if judge.thinking is not None:
            self._confined = UvaBackedTensor(max_num_reqs, dtype=torch.uint8)
            self._state, self._num_read = (
                StagedWriteTensor(max_num_reqs, dtype=torch.int32, device=device) for _ in range(2)
            )
            self._staged += [self._state, self._num_read]
            self._remember_tokens()

    @property
    def thinking(self) -> Thinking | None:
        """What the kernels need to confine the judge to reasoning; None where no request can ask for it."""
        automaton, req_states = self._judge.thinking, self._req_states
        if automaton is None:
            return None
        texts = req_states.all_token_ids.gpu
        return Thinking(
            confined=self._confined.gpu,
            state=self._state.gpu,
            num_read=self._num_read.gpu,
            all_token_ids=texts,
            all_token_ids_stride=texts.stride(0),
            total_len=req_states.total_len.gpu,
            token_class=automaton.token_class,
            transition=automaton.transition,
            num_classes=automaton.num_classes,
        )

    def _remember_tokens(self) -> None:
        """The sampler, by which requests come here, is told of a request right after the runner's states are, and not
        of its tokens."""
        self._tokens: list[int] = []
        add_request = self._req_states.add_request

        def watched(*args: Any, all_token_ids: list[int], **kwargs: Any) -> None:
            self._tokens = all_token_ids
            add_request(*args, all_token_ids=all_token_ids, **kwargs)

        self._req_states.add_request = watched

    def add_request(self, req_idx: int, sampling_params: Any, raw_scale: float) -> None:
        dial = self._judge.dial(sampling_params)
        self.threshold.np[req_idx] = dial.threshold
        self.raw_scale.np[req_idx] = raw_scale
        self.shadow.np[req_idx] = dial.shadow
        self.num_stop_token_ids.np[req_idx] = len(dial.stop_token_ids)
        self.stop_token_ids.stage_write(req_idx, 0, dial.stop_token_ids)
        if self._judge.thinking is not None:
            self._confined.np[req_idx] = dial.thinking_only
            if dial.thinking_only:
                self._state.stage_write_elem(req_idx, self._judge.thinking.after(self._tokens))
                self._num_read.stage_write_elem(req_idx, len(self._tokens))

    def stop_judging(self) -> None:
        """Decodes the requests that are here strictly from now on."""
        if not np.isposinf(self.threshold.np).all():
            self.threshold.np.fill(np.inf)
            self.threshold.copy_to_uva()

    def apply_staged_writes(self) -> None:
        for tensor in (self.threshold, self.raw_scale, self.shadow, self.num_stop_token_ids):
            tensor.copy_to_uva()
        for staged in self._staged:
            staged.apply_write()
        if self._judge.thinking is not None:
            self._confined.copy_to_uva()
