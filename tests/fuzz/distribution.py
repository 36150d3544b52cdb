"""What is sampled, counted: the tokens that leave after one draft, against the distribution that must hold.

A draft d is drawn from q. The judge accepts it where d is in a set A, the strict test with probability min(1, p/q).
What is rejected is followed by a sample of the residual max(p - q, 0). So a token x leaves first with probability

    q(x) [x in A, else min(1, p(x) / q(x))] + (what is rejected) residual(x)

For a head that rejects all, A is empty and this is p, the target's own distribution (Leviathan et al., 2023); for one
that accepts all it is q, the draft's. Without draft probabilities every q is a point at the draft, which stands in the
formula in q's place, and the drafts' distribution is summed over.
"""

from collections.abc import Callable

import torch
from fuzz.steps import Kind
from scipy.stats import chisquare
from verification_batch import Batch

FirstTokens = Callable[[int, Kind, Batch], torch.Tensor]

VOCABULARY = 12
JUDGED = {"rejects all": (), "accepts some": (1, 4, 5, 8), "accepts all": tuple(range(VOCABULARY))}


def distributions(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of target and draft, [V] each."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(VOCABULARY, generator=rng), torch.randn(VOCABULARY, generator=rng)


def expected(
    target: torch.Tensor, draft: torch.Tensor, judged: tuple[int, ...], *, with_draft_logits: bool
) -> torch.Tensor:
    """[V] float64: the distribution of the first token that leaves."""
    p, q = target.double().softmax(-1), draft.double().softmax(-1)
    accepts = torch.zeros(VOCABULARY, dtype=torch.bool)
    accepts[list(judged)] = True
    if with_draft_logits:
        kept = q * torch.where(accepts, 1.0, (p / q).clamp(max=1.0))
        residual = (p - q).clamp(min=0)
        return kept + (1 - kept.sum()) * residual / residual.sum()
    kept = torch.where(accepts, 1.0, p)  # of each draft
    others = p.repeat(VOCABULARY, 1).fill_diagonal_(0.0)
    return q * kept + (q * (1 - kept)) @ (others / others.sum(dim=-1, keepdim=True))


def chi_square(tokens: torch.Tensor, distribution: torch.Tensor) -> float:
    """The p-value of the tokens' counts."""
    counts = torch.bincount(tokens, minlength=VOCABULARY).double()
    return float(chisquare(counts.numpy(), (distribution / distribution.sum() * len(tokens)).numpy()).pvalue)


def one_draft_each(seed: int, num_reqs: int, judged: tuple[int, ...], *, with_draft_logits: bool) -> tuple[Kind, Batch]:
    """A step of requests with one draft, drawn from the draft's distribution, and with a head that accepts it where it
    is one of `judged`."""
    target, draft = distributions(seed)
    width = VOCABULARY if with_draft_logits else None
    ones = [1] * num_reqs
    kind = Kind(ones, [1.0] * num_reqs, VOCABULARY, 1, torch.float32, False, width, False, 0)
    batch = kind.batch(seed)
    x, rng = batch.inputs, torch.Generator().manual_seed(seed)
    drafts = torch.multinomial(draft.softmax(-1), num_reqs, replacement=True, generator=rng)
    x["raw_logits"][:] = target
    if with_draft_logits:
        x["draft_logits"][:] = draft
    x["draft_sampled"][1::2] = drafts.int()
    x["hidden"][:], x["weight"][:], x["bias"][...] = -1.0, 1.0, 0.0
    x["hidden"][x["hidden_rows"][1::2][torch.isin(drafts, torch.tensor(judged, dtype=torch.long))]] = 1.0
    x["threshold"][:], x["protected"][:], x["num_stop_token_ids"][:] = 0.0, False, 0
    return kind, batch


def p_values(first_tokens: FirstTokens, seed: int, num_reqs: int) -> dict[str, float]:
    """Of every kind of head, with and without draft probabilities, the p-value of the first tokens that leave."""
    found = {}
    for name, judged in JUDGED.items():
        for with_draft_logits in (False, True):
            want = expected(*distributions(seed), judged, with_draft_logits=with_draft_logits)
            step = one_draft_each(seed, num_reqs, judged, with_draft_logits=with_draft_logits)
            drafts = "draft probabilities" if with_draft_logits else "no draft probabilities"
            found[f"{name}, {drafts}"] = chi_square(first_tokens(seed, *step), want)
    return found
