"""Judge Decoding's acceptance rule in plain PyTorch, for one request: the oracle of the kernels and of both engines.

Judge Decoding (Bachmann et al., ICLR 2025, arXiv 2501.19309) keeps a draft token when standard verification keeps it
OR when the judge does. Standard verification is speculative sampling (Leviathan et al., ICML 2023, arXiv 2211.17192)
as vLLM's model runner V2 carries it out (`vllm/v1/worker/gpu/spec_decode/rejection_sampler_utils.py`).

Positions. A request's last token and its drafts d_1..d_M go through the target in one pass of M + 1 rows. Row i - 1
verifies d_i; row i has consumed d_i, and its hidden state is what the judge reads. Arrays of M are indexed by draft
(index i belongs to d_{i+1}, verified by row i), arrays of M + 1 by row. A draft token of -1 is a placeholder: never
accepted.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Verification:
    """What one verification step yields.

    Attributes:
        tokens: [num_accepted + 1] int64; the accepted draft tokens, then one token of the target's own.
        num_accepted: length of the accepted prefix of the drafts.
        judge_only: how many of the accepted tokens the strict test alone would have rejected.
    """

    tokens: torch.Tensor
    num_accepted: int
    judge_only: int


def evidence(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """What the target's own distribution says of tokens, in nats.

    Args:
        logits: [..., V], any float dtype: raw target logits, before temperature, penalties and truncation. -inf is a
            probability of zero.
        tokens: [...] integers below V. For a placeholder (negative) the result is meaningless, but no error.

    Returns:
        [..., 4] fp32: log p(token), entropy, log p_max - log p(token), p_max.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    log_prob = log_probs.gather(-1, tokens.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
    # A token without probability adds nothing to the entropy, where 0 * -inf would be NaN.
    finite = log_probs.clamp(min=torch.finfo(torch.float32).min)
    entropy = -(log_probs.exp() * finite).sum(dim=-1)
    log_prob_max = log_probs.max(dim=-1).values
    return torch.stack([log_prob, entropy, log_prob_max - log_prob, log_prob_max.exp()], dim=-1)


def allowed(constrained_logits: torch.Tensor, draft_tokens: torch.Tensor, protected: torch.Tensor) -> torch.Tensor:
    """Whether the judge may accept each draft token at all; what it may not, only the strict test can accept.

    Top-k and top-p shape what the target samples and do not bind the judge, so they come after `constrained_logits`.

    Args:
        constrained_logits: [M, V]; logits of the verifying rows after all constraints of the request (grammar, bad
            words, allowed ids, logit bias, min_tokens, min_p, thinking budget) and before top-k and top-p.
        draft_tokens: [M] integers.
        protected: [V] bool; end-of-sequence, stop and special tokens.

    Returns:
        [M] bool; False for a logit of -inf or NaN, for a protected token and for a placeholder.
    """
    tokens = draft_tokens.long().clamp(min=0)
    logits = constrained_logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return (logits > -torch.inf) & ~protected[tokens] & (draft_tokens >= 0)


def verify(
    target_logits: torch.Tensor,
    draft_tokens: torch.Tensor,
    judge_scores: torch.Tensor,
    judge_threshold: float,
    allowed: torch.Tensor,
    *,
    temperature: float,
    draft_logits: torch.Tensor | None = None,
    uniform: torch.Tensor | None = None,
    gumbel: torch.Tensor | None = None,
) -> Verification:
    """Verifies one request's drafts: the longest prefix in which each token passes the strict test OR the judge's.

    The judge accepts d where score(d) > threshold and `allowed`; a NaN score accepts nothing. The strict test is
    greedy at temperature 0 (d is the target's argmax), else u < p(d) / q(d). Where a draft is rejected the target's
    own token follows: its argmax, or a sample of the residual max(p - q, 0); after a placeholder, a sample of p. Where
    all are accepted it is the bonus token of the last row.

    Randomness is passed in, so that implementations can be compared token for token. vLLM gives each position one
    uniform number and one Gumbel vector: the test of a draft and the resampling at its position do not share a draw.

    Args:
        target_logits: [M + 1, V] processed logits: temperature, top-k and top-p are already applied. In a row with a
            NaN the strict sampling test fails; the target's own token there is some valid id.
        draft_tokens: [M] integers.
        judge_scores: [M] fp32 log-odds.
        judge_threshold: log-odds; +inf switches the judge off.
        allowed: [M] bool, see `allowed`.
        temperature: 0 is greedy. Otherwise it divides `draft_logits` only.
        draft_logits: [M, W] the draft model's logits before temperature; None stands for a draft without
            probabilities, q(d) = 1. Only the first min(V, W) tokens of either vocabulary count.
        uniform: [M] in (0, 1), needed when sampling.
        gumbel: [M + 1, V] standard Gumbel noise, needed when sampling.

    Raises:
        ValueError: sampling without `uniform` or `gumbel`.
    """
    num_drafts = draft_tokens.shape[0]
    vocab_size = min(logits.shape[-1] for logits in (target_logits, draft_logits) if logits is not None)
    target_logits = target_logits[:, :vocab_size].float()
    tokens = draft_tokens.long()

    if temperature == 0.0:
        target_tokens = target_logits.masked_fill(target_logits.isnan(), -torch.inf).argmax(dim=-1)
        strict = tokens == target_tokens[:num_drafts]
    elif uniform is None or gumbel is None:
        raise ValueError("verify() samples at a temperature above 0 and needs `uniform` and `gumbel` for it.")
    else:
        target_log_probs = target_logits.log_softmax(dim=-1)
        draft_log_probs = _draft_log_probs(draft_logits, tokens, temperature, vocab_size)
        index = tokens.clamp(min=0).unsqueeze(-1)
        log_p = target_log_probs[:num_drafts].gather(-1, index).squeeze(-1)
        log_q = draft_log_probs.gather(-1, index).squeeze(-1)
        # p > u q in logarithms, as vLLM has it; log p = -inf is rejected for every u.
        strict = (log_p > uniform.log() + log_q) & (tokens >= 0)

    accepted = strict | ((judge_scores > judge_threshold) & allowed & (tokens >= 0))
    num_accepted = int(accepted.long().cumprod(dim=0).sum())
    judge_only = int((~strict[:num_accepted]).sum())

    if temperature == 0.0:
        own = target_tokens[num_accepted]
    else:
        log_weights = target_log_probs[num_accepted]
        if num_accepted < num_drafts and tokens[num_accepted] >= 0:
            log_weights = _residual(log_weights, draft_log_probs[num_accepted])
        noisy = log_weights + gumbel[num_accepted, :vocab_size]
        own = noisy.masked_fill(noisy.isnan(), -torch.inf).argmax()
    return Verification(torch.cat([tokens[:num_accepted], own.reshape(1)]), num_accepted, judge_only)


def _draft_log_probs(
    draft_logits: torch.Tensor | None, tokens: torch.Tensor, temperature: float, vocab_size: int
) -> torch.Tensor:
    """[M, V] log q; without draft probabilities q is 1 at the draft token itself."""
    if draft_logits is not None:
        return (draft_logits[:, :vocab_size].float() / temperature).log_softmax(dim=-1)
    one_hot = torch.full((tokens.shape[0], vocab_size), -torch.inf, device=tokens.device)
    return one_hot.scatter(-1, tokens.clamp(min=0).unsqueeze(-1), 0.0)


def _residual(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """log max(p - q, 0), up to a constant, from log p and log q; stable where p and q are close."""
    ratio = (log_q - log_p).exp()
    return torch.where(ratio < 1.0, log_p + torch.log1p(-ratio), -torch.inf)
