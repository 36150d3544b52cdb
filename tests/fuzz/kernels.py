"""The campaign's kernels: the fused launches against the oracle, and against vLLM's own where the judge rejects all.

Needs a GPU or Triton's interpreter.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from fuzz.agreement import Agreement, compare, slack_of
from fuzz.steps import Kind, step
from verification_batch import Batch, oracle_arguments
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

from vllm_judge.kernels import reference
from vllm_judge.kernels.verdicts import num_judge_only

REQUESTS = 48  # of a step
VLLM_EVERY = 3  # every third step is verified by vLLM, too


def run(seed: int) -> tuple[Counter[str], list[str]]:
    """One step: cases by kind, and a sentence for each difference."""
    kind, batch = step(seed, REQUESTS)
    counts, differences = Counter[str](), []
    for request, (agreement, got, want) in enumerate(against_the_oracle(batch)):
        counts[f"kernels = oracle, {agreement}: {kind}"] += 1
        if agreement is Agreement.different:
            differences.append(
                f"seed {seed}, request {request}, {kind}: kernels {got}, oracle {reference.verify(**want)}"
            )
    if seed % VLLM_EVERY == 0:
        for request, (got, want) in enumerate(against_vllm(batch, rejects_by_score=seed % (2 * VLLM_EVERY) == 0)):
            counts["kernels with a rejecting head = vLLM's kernels"] += 1
            if got != want:
                differences.append(f"seed {seed}, request {request}, {kind}: rejecting {got}, vLLM's {want}")
    return counts, differences


def against_the_oracle(batch: Batch) -> Iterator[tuple[Agreement, object, dict[str, Any]]]:
    """For each request: the agreement, what the kernels found, and what the oracle was asked."""
    sampled, num_sampled, verdicts = (tensor.tolist() for tensor in batch.verify())
    x = batch.inputs
    raw, weights = x["raw_logits"].float(), x["evidence_weight"]
    for request, arguments in enumerate(oracle_arguments(batch)):
        rows = raw[slice(*batch.bounds[request])]
        score_slack = 0.0 if weights is None else slack_of(rows) * float(1 + weights.abs().sum())
        got = sampled[request][: num_sampled[request]], verdicts[request]
        yield compare(arguments, *got, score_slack), got, arguments


def against_vllm(batch: Batch, *, rejects_by_score: bool) -> Iterator[tuple[object, object]]:
    """For each request: the kernels' tokens with a judge that rejects all, by its scores or by the requests' switch,
    and vLLM's."""
    x = dict(batch.inputs)
    # A score of +inf is above any threshold but this one.
    x["threshold"] = torch.full_like(x["threshold"], 3e38 if rejects_by_score else torch.inf)
    x["hidden"] = x["hidden"].nan_to_num(0.0, 0.0, 0.0)
    sampled, num_sampled, verdicts = Batch(x, batch.constrained, batch.markers).verify()
    sampled, num_sampled, judge_only = (t.tolist() for t in (sampled, num_sampled, num_judge_only(verdicts)))
    own, num_own = (tensor.tolist() for tensor in rejection_sample(**batch.strict_inputs))
    for request, (length, own_length) in enumerate(zip(num_sampled, num_own, strict=True)):
        yield (sampled[request][:length], judge_only[request]), (own[request][:own_length], 0)


def first_tokens(seed: int, kind: Kind, batch: Batch) -> torch.Tensor:
    """[num_reqs] the first token that leaves of each request."""
    return batch.verify()[0][:, 0].cpu()
