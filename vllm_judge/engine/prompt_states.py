"""Hidden states and evidence of prompts' tokens, from an engine that generates: what training reads.

Where vLLM computes prompt logprobs, its own `compute_logits` is asked for the rows that are wanted, and its output
layer watched, as in serving. So the target's own logits are the evidence, whatever it does to them, and tensor and
pipeline parallelism are vLLM's. A worker keeps [N, H] and [N, 4]; logits exist for a block of rows at a time.
"""

from typing import Any

import torch
from vllm.distributed.parallel_state import get_pp_group, get_tp_group

from vllm_judge.engine.output_layer import OutputLayer
from vllm_judge.head import EVIDENCE
from vllm_judge.kernels.reference import evidence

# The request's extra argument: {"name": of the sequence, "rows": [N] places of tokens, "tokens": [N] these tokens}.
WANTED = "vllm_judge_prompt_states"
ROWS = 512  # rows whose logits exist at a time
# The class below, as vLLM's option worker_extension_cls takes it.
EXTENSION = f"{__name__}.PromptStatesExtension"


class PromptStatesExtension:
    """Methods that vLLM gives its workers, for `LLM.collective_rpc`."""

    model_runner: Any
    vllm_config: Any
    _prompt_states: "PromptStates"

    def watch_prompts(self) -> None:
        """From now on keeps what requests want of their prompts."""
        if not get_pp_group().is_last_rank:
            return
        self._prompt_states = PromptStates(self.model_runner.get_model())
        if self.vllm_config.use_v2_model_runner:
            self.model_runner.prompt_logprobs_worker = _V2PromptLogprobs(self._prompt_states)
        else:
            _watch_v1(self.model_runner, self._prompt_states)

    def take_prompt_states(self, names: list[str]) -> tuple[str, bytes, bytes] | None:
        """Hands over what was kept of sequences, and forgets it.

        Returns:
            The dtype of hidden states, these [N, H], and evidence [N, 4] fp32, of all sequences in order; None on the
            ranks that keep nothing, and where a row is missing: vLLM has it from a cache, and did not compute it.
        """
        if not get_pp_group().is_last_rank or not get_tp_group().is_first_rank:
            return None
        return self._prompt_states.take(names)


class PromptStates:
    """The rows that requests want, read from a model's output layer step by step."""

    def __init__(self, model: torch.nn.Module):
        self._model, self._layer = model, OutputLayer(model)
        self._kept: dict[str, _Kept] = {}

    def read(self, hidden_states: torch.Tensor, wanted: dict[str, Any], start: int, offset: int, count: int) -> None:
        """Reads the part of a request's prompt that lies in this step.

        Args:
            hidden_states: [num_tokens, ...], what the forward pass returned.
            wanted: see WANTED.
            start: place of the part's first token in the prompt; offset: in `hidden_states`.
            count: tokens of the part.
        """
        rows, tokens = torch.tensor(wanted["rows"]), torch.tensor(wanted["tokens"])
        own = (rows >= start) & (rows < start + count)
        verified = (rows > start) & (rows <= start + count)  # whose verifying row, the one before, is in this part
        # A row is a token's own and verifies the next token: it is asked for once.
        places, where = torch.cat([rows[own], rows[verified] - 1]).unique(return_inverse=True)
        if not len(places):
            return
        of_own, of_verified = where.split([int(own.sum()), int(verified.sum())])
        next_tokens = torch.zeros_like(places).index_copy(0, of_verified, tokens[verified])
        hidden, said = self._ask(hidden_states, places - start + offset, next_tokens)
        if get_tp_group().is_first_rank:
            kept = self._kept.setdefault(wanted["name"], _Kept(len(rows), hidden))
            kept.hidden[own], kept.evidence[verified] = hidden[of_own], said[of_verified]
            kept.missing[own, 0] = kept.missing[verified, 1] = False

    def _ask(
        self, hidden_states: torch.Tensor, rows: torch.Tensor, next_tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The output layer's input [N, H] in rows of a step, and what its logits say of tokens [N, 4], on the host."""
        hidden, said = [], []
        for block, tokens in zip(rows.split(ROWS), next_tokens.split(ROWS), strict=True):
            with self._layer.inputs() as seen:
                logits = self._model.compute_logits(hidden_states[block.to(hidden_states.device)])
            [layer_input] = seen
            hidden.append(layer_input.cpu())
            if logits is not None:  # with tensor parallelism some platforms give logits to the first rank only
                said.append(evidence(logits, tokens.to(logits.device)).cpu())
        return torch.cat(hidden), torch.cat(said) if said else torch.empty(0, len(EVIDENCE))

    def take(self, names: list[str]) -> tuple[str, bytes, bytes] | None:
        """See `PromptStatesExtension.take_prompt_states`."""
        taken = [self._kept.pop(name, None) for name in names]
        complete = [kept for kept in taken if kept is not None and not kept.missing.any()]
        if len(complete) < len(names):
            return None
        hidden = torch.cat([kept.hidden for kept in complete])
        said = torch.cat([kept.evidence for kept in complete])
        # vLLM's results of collective_rpc may hold bytes, and no tensors.
        return str(hidden.dtype).removeprefix("torch."), _bytes(hidden), _bytes(said)


class _Kept:
    """N rows of one sequence: hidden [N, H], evidence [N, 4], and [N, 2] which of both are still missing."""

    def __init__(self, num_rows: int, like: torch.Tensor):
        self.hidden = like.new_empty(num_rows, like.shape[-1])
        self.evidence = torch.empty(num_rows, len(EVIDENCE))
        self.missing = torch.ones(num_rows, 2, dtype=torch.bool)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.view(torch.uint8).numpy().tobytes()


def _wanted(sampling_params: Any) -> dict[str, Any] | None:
    return (sampling_params.extra_args or {}).get(WANTED)


def _watch_v1(runner: Any, states: PromptStates) -> None:
    def read_prompts(hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        for name, count in num_scheduled_tokens.items():
            request = runner.requests[name]
            if wanted := _wanted(request.sampling_params):
                offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]])
                states.read(hidden_states, wanted, request.num_computed_tokens, offset, count)
        return {}

    runner._get_prompt_logprobs_dict = read_prompts


class _V2PromptLogprobs:
    """Stands where vLLM's PromptLogprobsWorker does."""

    def __init__(self, states: PromptStates):
        self._states = states
        self._wanted: dict[str, dict[str, Any]] = {}

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:
        if wanted := _wanted(sampling_params):
            self._wanted[req_id] = wanted

    def remove_request(self, req_id: str) -> None:
        self._wanted.pop(req_id, None)

    def compute_prompt_logprobs(
        self, logits_fn: Any, hidden_states: torch.Tensor, input_batch: Any, *_: Any
    ) -> dict[str, Any]:
        for i, name in enumerate(input_batch.req_ids):
            if wanted := self._wanted.get(name):
                start, offset = input_batch.num_computed_prefill_tokens_np[i], input_batch.query_start_loc_np[i]
                self._states.read(
                    hidden_states, wanted, int(start), int(offset), int(input_batch.num_scheduled_tokens[i])
                )
        return {}

    def compute_prompt_token_id_logprobs(self, *_: Any) -> dict[str, Any]:
        return {}
