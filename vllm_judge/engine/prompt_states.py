"""Hidden states and evidence of prompts' tokens, from an engine that generates: what training and replay read.

Where vLLM computes prompt logprobs, its own `compute_logits` is asked for the rows that are wanted, and its output
layer watched, as in serving. So the target's own logits are the evidence, whatever it does to them, and tensor and
pipeline parallelism are vLLM's. A worker keeps [N, H], [N, 4] and [N]; logits exist for a block of rows at a time.
"""

from typing import Any

import torch
from vllm.distributed.parallel_state import get_pp_group, get_tp_group

from vllm_judge.engine.output_layer import OutputLayer, dummy_rows, read_once
from vllm_judge.errors import JudgeConfigError
from vllm_judge.head import EVIDENCE
from vllm_judge.kernels.reference import evidence

# The request's extra argument: {"name": of the sequence, "rows": [N] places of tokens, "tokens": [N] these tokens}.
WANTED = "vllm_judge_prompt_states"
ROWS = 256  # rows whose logits exist at a time
# The class below, as vLLM's option worker_extension_cls takes it.
EXTENSION = f"{__name__}.PromptStatesExtension"


class PromptStatesExtension:
    """Methods that vLLM gives its workers, for `LLM.collective_rpc`."""

    model_runner: Any
    vllm_config: Any
    _prompt_states: "PromptStates"

    def watch_prompts(self) -> str | None:
        """From now on keeps what requests want of their prompts; or why that cannot be, in a sentence."""
        rows = dummy_rows(self.model_runner)
        if not get_pp_group().is_last_rank:
            return None
        model = self.model_runner.get_model()
        layer = OutputLayer(model)
        try:
            read_once(model, layer, rows)
        except JudgeConfigError as error:
            return str(error)
        self._prompt_states = PromptStates(model, layer)
        if self.vllm_config.use_v2_model_runner:
            self.model_runner.prompt_logprobs_worker = _V2PromptLogprobs(self._prompt_states)
        else:
            _watch_v1(self.model_runner, self._prompt_states)
        return None

    def take_prompt_states(self, names: list[str]) -> tuple[str, bytes, bytes, bytes] | None:
        """Hands over what was kept of sequences, and forgets it.

        Returns:
            The dtype of hidden states, these [N, H], evidence [N, 4] fp32, and the target's own choices [N] int64, of
            all sequences in order; None on the ranks that keep nothing, and where a row is missing: vLLM has it from a
            cache, and did not compute it.
        """
        if not get_pp_group().is_last_rank or not get_tp_group().is_first_rank:
            return None
        return self._prompt_states.take(names)


class PromptStates:
    """The rows that requests want, read from a model's output layer step by step."""

    def __init__(self, model: Any, layer: OutputLayer):
        self._model, self._layer = model, layer
        # Of tensor-parallel ranks all take part in the logits, and on some platforms the first alone gets them.
        self._keeps = get_tp_group().is_first_rank
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
        in_step = (places - start + offset).to(hidden_states.device)
        blocks = zip(in_step.split(ROWS), next_tokens.split(ROWS), strict=True)
        asked = [self._ask(hidden_states[block], tokens) for block, tokens in blocks]
        if self._keeps:
            hidden, said, preferred = (torch.cat(column) for column in zip(*asked, strict=True))
            kept = self._kept.setdefault(wanted["name"], _Kept(len(rows), hidden))
            kept.hidden[own] = hidden[of_own]
            kept.evidence[verified], kept.preferred[verified] = said[of_verified], preferred[of_verified]
            kept.missing[own, 0] = kept.missing[verified, 1] = False

    def _ask(self, rows: torch.Tensor, next_tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The output layer's input [N, H] in rows of a step, what its logits say of tokens [N, 4], and the tokens that
        they prefer [N], on the host."""
        hidden, logits = read_once(self._model, self._layer, rows)
        if not self._keeps or logits is None:
            return ()
        return hidden.cpu(), evidence(logits, next_tokens.to(logits.device)).cpu(), logits.argmax(dim=-1).cpu()

    def take(self, names: list[str]) -> tuple[str, bytes, bytes, bytes] | None:
        """See `PromptStatesExtension.take_prompt_states`."""
        taken = [self._kept.pop(name, None) for name in names]
        complete = [kept for kept in taken if kept is not None and not kept.missing.any()]
        if len(complete) < len(names):
            return None
        hidden = torch.cat([kept.hidden for kept in complete])
        said = torch.cat([kept.evidence for kept in complete])
        preferred = torch.cat([kept.preferred for kept in complete])
        # vLLM's results of collective_rpc may hold bytes, and no tensors.
        return str(hidden.dtype).removeprefix("torch."), _bytes(hidden), _bytes(said), _bytes(preferred)


class _Kept:
    """N rows of one sequence: hidden [N, H]; evidence [N, 4] and preferred [N]; [N, 2] which of both are missing."""

    def __init__(self, num_rows: int, like: torch.Tensor):
        self.hidden = like.new_empty(num_rows, like.shape[-1])
        self.evidence = torch.empty(num_rows, len(EVIDENCE))
        self.preferred = torch.empty(num_rows, dtype=torch.long)
        self.missing = torch.ones(num_rows, 2, dtype=torch.bool)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.view(torch.uint8).numpy().tobytes()


def _wanted(sampling_params: Any) -> dict[str, Any] | None:
    return (sampling_params.extra_args or {}).get(WANTED)


def _watch_v1(runner: Any, states: PromptStates) -> None:
    """Symptom: no hidden state and no entropy of a prompt's tokens. Why: vLLM offers their log probabilities only, and
    its pooling runner ends before `compute_logits`. How: in engines that extract, the runner's method for prompt
    logprobs is replaced. Until: vLLM gives the output layer's input out."""

    def read_prompts(hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        for name, count in num_scheduled_tokens.items():
            request = runner.requests[name]
            if wanted := _wanted(request.sampling_params):
                offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]])
                states.read(hidden_states, wanted, request.num_computed_tokens, offset, count)
        return {}

    runner._get_prompt_logprobs_dict = read_prompts


class _V2PromptLogprobs:
    """The same on V2, where vLLM has an object of its own for prompt logprobs: this stands in its place."""

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
