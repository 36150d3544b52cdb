"""Random verification steps for the kernels of model runner V2, and what the oracle makes of them.

Used by `unit/test_verify_kernels.py` (Triton's interpreter) and `gpu/test_verify_gpu.py` (real launches).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import _log1p_neg_stable, murmur3_uniform32, tl_rand32

from vllm_judge.kernels import reference
from vllm_judge.kernels.inputs import Thinking
from vllm_judge.kernels.thinking import ThinkingAutomaton
from vllm_judge.kernels.verify import judged_rejection_sample

# What vLLM's own `rejection_sample` takes of it; the rest is the judge's.
STRICT_INPUTS = [
    "target_logits",
    "draft_logits",
    "draft_sampled",
    "cu_num_logits",
    "pos",
    "idx_mapping",
    "expanded_idx_mapping",
    "expanded_local_pos",
    "temperature",
    "seed",
    "num_speculative_steps",
    "use_fp64",
]


@dataclass
class Batch:
    """The arguments of `judged_rejection_sample` by name, and all constrained logits (the kernels get the drafts').

    Attributes:
        markers: what begins and ends reasoning.
    """

    inputs: dict[str, Any]
    constrained: torch.Tensor
    markers: tuple[list[int], list[int]] | None = None

    def verify(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return judged_rejection_sample(**self.inputs)

    @property
    def strict_inputs(self) -> dict[str, Any]:
        return {name: self.inputs[name] for name in STRICT_INPUTS}

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The rows of each request, first and end."""
        return list(pairwise(self.inputs["cu_num_logits"].tolist()))


def random_batch(
    seed: int,
    num_drafts: list[int],
    temperatures: list[float],
    *,
    vocab_size: int = 300,
    hidden_size: int = 192,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    processed: bool = False,
    draft_vocab_size: int | None = None,
    with_evidence: bool = False,
    row_padding: int = 0,
    spoil: Callable[[torch.Tensor], None] | None = None,
    shadow: bool = False,
    markers: tuple[list[int], list[int]] | None = None,
) -> Batch:
    """A ragged step of len(num_drafts) requests.

    Hidden states and weights are small multiples of powers of two, so that their dot products are exact in fp32 in any
    order of summation and a judge's decision cannot hang on rounding.

    Args:
        processed: requests with an odd index get a bias, bans and a top-k of 12 on top of their temperature, the others
            their temperature alone; target logits are then an fp32 copy, as in vLLM.
        draft_vocab_size: None: a draft without probabilities.
        row_padding: extra columns between rows of logits, hidden states and draft logits.
        spoil: called with the raw logits [num_logits, V] and with the draft logits, to write into them before anything
            is made of them.
        shadow: every other request is in shadow.
        markers: two requests in three are confined to their reasoning, which these begin and end, and drafts and texts
            hold many of their tokens.
    """
    rng = torch.Generator().manual_seed(seed)

    def randint(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=rng)

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + row_padding), torch.nan, dtype=tensor.dtype)
        wide[..., : tensor.shape[-1]] = tensor
        return wide.to(device)[..., : tensor.shape[-1]]

    num_reqs, max_num_reqs, steps = len(num_drafts), len(num_drafts) + 3, max(1, *num_drafts)
    lengths = torch.tensor(num_drafts) + 1
    num_logits = int(lengths.sum())
    num_tokens = num_logits + 5
    idx_mapping = torch.randperm(max_num_reqs, generator=rng)[:num_reqs].int()
    local_pos = torch.cat([torch.arange(int(length)) for length in lengths]).int()
    temperature = torch.zeros(max_num_reqs).index_copy(0, idx_mapping.long(), torch.tensor(temperatures))

    raw = (3.0 * torch.randn(num_logits, vocab_size, generator=rng)).to(dtype)
    if spoil is not None:
        spoil(raw)
    constrained, target, raw_scale = raw, raw, torch.ones(max_num_reqs)
    if processed:
        request = torch.arange(num_reqs).repeat_interleave(lengths)
        odd = (request % 2 == 1).unsqueeze(-1)
        row_temperature = torch.tensor(temperatures)[request].unsqueeze(-1)
        biased = raw.float() + torch.randn(num_logits, vocab_size, generator=rng)
        biased = biased.masked_fill(torch.rand(num_logits, vocab_size, generator=rng) < 0.3, -torch.inf)
        constrained = torch.where(odd, biased, raw.float())
        constrained = torch.where(row_temperature > 0, constrained / row_temperature, constrained)
        kth = constrained.topk(min(12, vocab_size), dim=-1).values[:, -1:]
        target = torch.where(odd & (constrained < kth), -torch.inf, constrained)
        raw_scale = torch.where(temperature > 0, temperature, 1.0)
        raw_scale[idx_mapping[torch.arange(num_reqs) % 2 == 1].long()] = 0.0

    # Drafts: half of them the target's best token, most others among the best before constraints; a few placeholders.
    best = target.float().argmax(dim=-1).roll(1)
    likely = raw.float().topk(min(4, vocab_size), dim=-1).indices.roll(1, dims=0)
    likely = likely.gather(-1, randint(0, likely.shape[-1], num_logits, 1)).squeeze(-1)
    draft_sampled = torch.where(torch.rand(num_logits, generator=rng) < 0.5, best, likely)
    anywhere = torch.rand(num_logits, generator=rng) < 0.1
    draft_sampled = torch.where(anywhere, randint(0, vocab_size, num_logits), draft_sampled)
    draft_sampled[torch.rand(num_logits, generator=rng) < 0.04] = -1

    draft_logits = None
    if draft_vocab_size is not None:
        draft_logits = 2.0 * torch.randn(max_num_reqs, steps, draft_vocab_size, generator=rng)
        if spoil is not None:
            spoil(draft_logits.flatten(0, 1))
        draft_sampled = draft_sampled.clamp(max=draft_vocab_size - 1)
    draft_constrained = at_drafts(constrained, draft_sampled)

    raw_logits = padded(raw)
    inputs = {
        "target_logits": padded(target) if processed else raw_logits,
        "draft_logits": None if draft_logits is None else padded(draft_logits.to(dtype)),
        "draft_sampled": draft_sampled.int(),
        "cu_num_logits": torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int(),
        "pos": (randint(5, 1000, num_reqs).repeat_interleave(lengths) + local_pos).long(),
        "idx_mapping": idx_mapping,
        "expanded_idx_mapping": idx_mapping.repeat_interleave(lengths),
        "expanded_local_pos": local_pos,
        "temperature": temperature,
        "seed": randint(-(2**62), 2**62, max_num_reqs),
        "num_speculative_steps": steps,
        "use_fp64": False,
        "raw_logits": raw_logits,
        "raw_scale": raw_scale,
        "draft_constrained": draft_constrained if processed else None,
        "hidden": padded((randint(-8, 9, num_tokens, hidden_size) / 4).to(dtype)),
        "hidden_rows": torch.randperm(num_tokens, generator=rng)[:num_logits].sort().values,
        "weight": randint(-4, 5, hidden_size) / 32,
        "bias": torch.tensor(0.125),
        "evidence_weight": 0.1 * torch.randn(4, generator=rng) if with_evidence else None,
        "threshold": torch.full((max_num_reqs,), 0.01),
        "protected": torch.rand(vocab_size, generator=rng) < 0.1,
        "stop_token_ids": randint(0, vocab_size, max_num_reqs, 5).int(),
        "num_stop_token_ids": randint(0, 6, max_num_reqs).int(),
        "shadow": torch.zeros(max_num_reqs, dtype=torch.uint8),
        "thinking": None,
    }
    if shadow:
        inputs["shadow"][idx_mapping[::2].long()] = 1
    if markers is not None:
        marks = torch.tensor([token for marker in markers for token in marker])
        marked = torch.rand(num_logits, generator=rng) < 0.4
        chosen = marks[randint(0, len(marks), num_logits)]
        drafts = torch.where(marked & (draft_sampled >= 0), chosen, draft_sampled)
        inputs["draft_sampled"] = drafts.int()
        if processed:
            inputs["draft_constrained"] = at_drafts(constrained, drafts)
        inputs["thinking"] = random_texts(rng, idx_mapping, max_num_reqs, markers, vocab_size, device)
    on_device = {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    for name in ("raw_logits", "target_logits", "draft_logits", "hidden"):
        on_device[name] = inputs[name]  # `padded` has moved them; another copy would drop their padding
    return Batch(on_device, constrained.to(device), markers)


def random_texts(
    rng: torch.Generator,
    idx_mapping: torch.Tensor,
    max_num_reqs: int,
    markers: tuple[list[int], list[int]],
    vocab_size: int,
    device: str,
    max_model_len: int = 24,
) -> Thinking:
    """Texts of markers' tokens and others, of which the automaton has read some."""
    automaton = ThinkingAutomaton(*markers, vocab_size)
    tokens = torch.tensor([token for marker in markers for token in marker])
    tokens = torch.cat([tokens, torch.tensor([vocab_size - 1])])
    texts = tokens[torch.randint(0, len(tokens), (max_num_reqs, max_model_len), generator=rng)].int()
    total_len = torch.randint(1, max_model_len + 1, (max_num_reqs,), generator=rng).int()
    num_read = (torch.rand(max_num_reqs, generator=rng) * (total_len + 1)).int()
    states = [automaton.after(texts[i, : num_read[i]].tolist()) for i in range(max_num_reqs)]
    confined = torch.zeros(max_num_reqs, dtype=torch.uint8)
    confined[idx_mapping[torch.arange(len(idx_mapping)) % 3 != 2].long()] = 1
    automaton = automaton.to(torch.device(device))
    return Thinking(
        confined=confined.to(device),
        state=torch.tensor(states, dtype=torch.int32, device=device),
        num_read=num_read.to(device),
        all_token_ids=texts.to(device),
        all_token_ids_stride=texts.stride(0),
        total_len=total_len.to(device),
        token_class=automaton.token_class,
        transition=automaton.transition,
        num_classes=automaton.num_classes,
    )


def at_drafts(logits: torch.Tensor, drafts: torch.Tensor) -> torch.Tensor:
    """[num_logits] fp32: by the draft token's own row, its logit one row earlier; anything for a placeholder."""
    return logits.float().roll(1, dims=0).gather(-1, drafts.clamp(min=0).long().unsqueeze(-1)).squeeze(-1)


def expected(batch: Batch) -> list[reference.Verification]:
    """The oracle's verification of every request, with vLLM's own random numbers."""
    return [reference.verify(**step) for step in oracle_arguments(batch)]


def oracle_arguments(batch: Batch) -> list[dict[str, Any]]:
    """The arguments of `reference.verify` for every request."""
    x = batch.inputs
    drafts = x["draft_sampled"]
    row_seeds = x["seed"][x["expanded_idx_mapping"].long()]
    uniform, gumbel = noise(row_seeds, x["pos"], x["target_logits"].shape[-1])
    steps = []
    for (first, end), req in zip(batch.bounds, x["idx_mapping"].tolist(), strict=True):
        verifying, own, tokens = slice(first, end - 1), slice(first + 1, end), drafts[first + 1 : end]
        temperature = x["temperature"][req].item()
        scores = x["hidden"][x["hidden_rows"][own]].float() @ x["weight"] + x["bias"]
        if x["evidence_weight"] is not None:
            vocab_size = min(t.shape[-1] for t in (x["raw_logits"], x["draft_logits"]) if t is not None)
            scores = scores + reference.evidence(x["raw_logits"][verifying, :vocab_size], tokens) @ x["evidence_weight"]
        protected = x["protected"].clone()
        protected[x["stop_token_ids"][req, : x["num_stop_token_ids"][req]].long()] = True
        allowed = reference.allowed(batch.constrained[verifying], tokens, protected)
        if batch.markers is not None and x["thinking"].confined[req]:
            text = x["thinking"].all_token_ids[req, : x["thinking"].total_len[req]].tolist()
            allowed &= reference.inside_thinking(text, tokens, *batch.markers).to(allowed.device)
        steps.append(
            {
                "target_logits": x["target_logits"][first:end],
                "draft_tokens": tokens,
                "judge_scores": scores,
                "judge_threshold": x["threshold"][req].item(),
                "allowed": allowed,
                "temperature": temperature,
                "draft_logits": None if x["draft_logits"] is None else x["draft_logits"][req, : end - first - 1],
                "uniform": uniform[verifying],
                "gumbel": gumbel[first:end],
                "shadow": bool(x["shadow"][req]),
            }
        )
    return steps


def noise(seed: torch.Tensor, pos: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What vLLM draws at seeds and positions [N]: uniform [N] and Gumbel [N, V]."""
    num_rows = pos.shape[0]
    uniform = pos.new_empty(num_rows, dtype=torch.float32)
    gumbel = pos.new_empty(num_rows, vocab_size, dtype=torch.float32)
    # One program for all rows: the interpreter's time goes by operations, not by elements.
    _noise_kernel[(1,)](
        uniform,
        gumbel,
        seed,
        pos,
        num_rows,
        vocab_size,
        PADDED_NUM_ROWS=triton.next_power_of_2(num_rows),
        BLOCK_SIZE=1024,
        num_warps=8,
    )
    return uniform, gumbel


@triton.jit
def _noise_kernel(
    uniform_ptr,
    gumbel_ptr,
    seed_ptr,
    pos_ptr,
    num_rows,
    vocab_size,
    PADDED_NUM_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    row = tl.arange(0, PADDED_NUM_ROWS)
    seed = tl.load(seed_ptr + row, mask=row < num_rows, other=0)
    pos = tl.load(pos_ptr + row, mask=row < num_rows, other=0)
    tl.store(uniform_ptr + row, tl_rand32(seed, pos, includes_zero=False), mask=row < num_rows)
    for start in range(0, vocab_size, BLOCK_SIZE):
        token = start + tl.arange(0, BLOCK_SIZE)[None, :]
        gumbel = -tl.log(-_log1p_neg_stable(murmur3_uniform32(seed[:, None], pos[:, None], token)))
        mask = (row[:, None] < num_rows) & (token < vocab_size)
        tl.store(gumbel_ptr + row[:, None] * vocab_size + token, gumbel, mask=mask)
