"""Judge Decoding's acceptance rule in plain PyTorch, for one request: the oracle of the kernels and of both engines.

Judge Decoding (Bachmann et al., ICLR 2025, arXiv 2501.19309) keeps a draft token when standard verification keeps it
OR when the judge does. Standard verification is speculative sampling (Leviathan et al., ICML 2023, arXiv 2211.17192)
as vLLM's model runner V2 carries it out (`vllm/v1/worker/gpu/spec_decode/rejection_sampler_utils.py`).

Positions. A request's last token and its drafts d_1..d_M go through the target in one pass of M + 1 rows. Row i - 1
verifies d_i; row i has consumed d_i, and its hidden state is what the judge reads. Arrays of M are indexed by draft
(index i belongs to d_{i+1}, verified by row i), arrays of M + 1 by row. A draft token of -1 is a placeholder: never
accepted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vllm_judge.kernels.verdicts import verdicts


@dataclass(frozen=True)
class Verification:
    """What one verification step yields.

    Attributes:
        tokens: [num_accepted + 1] int64; the accepted draft tokens, then one token of the target's own.
        num_accepted: length of the accepted prefix of the drafts.
        judge_only: how many of the accepted tokens the strict test alone would have rejected.
        gain: in shadow, how much longer the accepted prefix would have been with the judge; otherwise 0.
        verdicts: [M] int16, see verdicts.py.
    """

    tokens: torch.Tensor
    num_accepted: int
    judge_only: int
    gain: int
    verdicts: torch.Tensor


def evidence(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """What the target's own distribution says of tokens, in nats.

    Args:
        logits: [..., V], any float dtype: raw target logits, before temperature, penalties and truncation. -inf is a
            probability of zero.
        tokens: [...] integers below V. For a placeholder (negative) the result is meaningless, but no error.

    Returns:
        [..., 4] fp32: log p(token), entropy, log p_max - log p(token), p_max.
    """
    logits = logits.float()
    below_max = logits - logits.amax(dim=-1, keepdim=True)
    probs = below_max.softmax(dim=-1)
    prob_max = probs.amax(dim=-1)
    log_prob_max = prob_max.log()  # and so log p = log p_max + below_max, for every token
    margin = -below_max.gather(-1, tokens.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
    # A token without probability adds nothing to the entropy, where 0 * -inf would be NaN.
    entropy = -log_prob_max - torch.linalg.vecdot(probs, below_max.nan_to_num(nan=torch.nan))
    return torch.stack([log_prob_max - margin, entropy, margin, prob_max], dim=-1)


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


def thinking(tokens: Sequence[int], start: Sequence[int], end: Sequence[int]) -> bool:
    """Whether a text, prompt included, has come to be inside its reasoning part.

    Args:
        tokens: the text's tokens.
        start, end: the tokens that begin and end reasoning, one or more each.

    Returns:
        True where the last of `start` and `end` that the text holds in whole is `start`; False where it holds neither.
    """
    for length in range(len(tokens), 0, -1):
        text = list(tokens[:length])
        if text[-len(end) :] == list(end):
            return False
        if text[-len(start) :] == list(start):
            return True
    return False


def inside_thinking(
    text: Sequence[int], draft_tokens: torch.Tensor, start: Sequence[int], end: Sequence[int]
) -> torch.Tensor:
    """Which drafts a judge that is confined to reasoning may accept, each if those before it are accepted.

    A draft lies inside where the text is thinking before it and still after it: the token that completes `end` decides
    where the answer begins, and is no judge's to accept.

    Args:
        text: the request's tokens up to its last one, prompt included.
        draft_tokens: [M] integers.
        start, end: see `thinking`.

    Returns:
        [M] bool.
    """
    texts = [[*text, *draft_tokens.tolist()[:length]] for length in range(len(draft_tokens) + 1)]
    state = torch.tensor([thinking(tokens, start, end) for tokens in texts])
    return state[:-1] & state[1:]


def strict_test(
    target_logits: torch.Tensor,
    draft_tokens: torch.Tensor,
    *,
    temperature: float,
    draft_logits: torch.Tensor | None = None,
    uniform: torch.Tensor | None = None,
) -> torch.Tensor:
    """What speculative sampling says of each draft token by itself, wherever the accepted prefix ends.

    Arguments as for `verify`, but target_logits are those of the M verifying rows, without the bonus row.

    Returns:
        [M] bool.

    Raises:
        ValueError: sampling without `uniform`.
    """
    tokens = draft_tokens.long()
    vocab_size = _vocab_size(target_logits, draft_logits)
    target_logits = target_logits[:, :vocab_size].float()
    if temperature == 0.0:
        return tokens == _argmax(target_logits)
    if uniform is None:
        raise ValueError("strict_test() samples at a temperature above 0 and needs `uniform` for it.")
    index = tokens.clamp(min=0).unsqueeze(-1)
    log_p = target_logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1)
    log_q = _draft_log_probs(draft_logits, tokens, temperature, vocab_size).gather(-1, index).squeeze(-1)
    # p > u q in logarithms, as vLLM has it; log p = -inf is rejected for every u.
    return (log_p > uniform.log() + log_q) & (tokens >= 0)


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
    shadow: bool = False,
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
        allowed: [M] bool, see `allowed`; where the judge is confined to reasoning, and `inside_thinking`.
        temperature: 0 is greedy. Otherwise it divides `draft_logits` only.
        draft_logits: [M, W] the draft model's logits before temperature; None stands for a draft without
            probabilities, q(d) = 1. Only the first min(V, W) tokens of either vocabulary count.
        uniform: [M] in (0, 1), needed when sampling.
        gumbel: [M + 1, V] standard Gumbel noise, needed when sampling.
        shadow: the judge's word is counted and not heeded: the tokens are those of the strict test.

    Raises:
        ValueError: sampling without `uniform` or `gumbel`.
    """
    num_drafts = draft_tokens.shape[0]
    vocab_size = _vocab_size(target_logits, draft_logits)
    target_logits = target_logits[:, :vocab_size].float()
    tokens = draft_tokens.long()
    strict = strict_test(
        target_logits[:num_drafts], tokens, temperature=temperature, draft_logits=draft_logits, uniform=uniform
    )
    judged = strict | ((judge_scores > judge_threshold) & allowed & (tokens >= 0))
    accepted = strict if shadow else judged
    num_accepted, would_be = (int(passes.long().cumprod(dim=0).sum()) for passes in (accepted, judged))
    judge_only = int((~strict[:num_accepted]).sum())
    threshold = judge_scores.new_full((1,), judge_threshold)
    said = verdicts(strict, allowed, tokens >= 0, judge_scores, threshold, torch.full_like(threshold, shadow).bool())

    if temperature == 0.0:
        own = _argmax(target_logits[num_accepted])
    elif gumbel is None:
        raise ValueError("verify() samples at a temperature above 0 and needs `gumbel` for it.")
    else:
        log_weights = target_logits[num_accepted].log_softmax(dim=-1)
        if num_accepted < num_drafts and tokens[num_accepted] >= 0:
            draft_log_probs = _draft_log_probs(draft_logits, tokens, temperature, vocab_size)
            log_weights = _residual(log_weights, draft_log_probs[num_accepted])
        own = _argmax(log_weights + gumbel[num_accepted, :vocab_size])
    emitted = torch.cat([tokens[:num_accepted], own.reshape(1)])
    return Verification(emitted, num_accepted, judge_only, would_be - num_accepted, said)


def _vocab_size(target_logits: torch.Tensor, draft_logits: torch.Tensor | None) -> int:
    return min(logits.shape[-1] for logits in (target_logits, draft_logits) if logits is not None)


def _argmax(values: torch.Tensor) -> torch.Tensor:
    """The place of the largest value along the last dimension, NaN passed over."""
    return values.masked_fill(values.isnan(), -torch.inf).argmax(dim=-1)


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
