"""Evidence in the kernels (`reference.evidence`), in two halves: sums over blocks of a row, then what they say.

Logarithms are to base 2 here and sums relative to their block's maximum: one multiplication with addition and one power
of two for each logit, of which a step has millions.
"""

from vllm.triton_utils import LOG2E, LOGE2, tl, triton

_LOG2E = tl.constexpr(LOG2E)
_LOGE2 = tl.constexpr(LOGE2)


@triton.jit
def store_raw_sums(logits, max, scale, sums, offset):
    """First half: the sums of one block of logits, of which the raw ones are `scale` times (-inf: probability zero).

    Stores the raw maximum m, sum 2^(x - m) and sum (x - m) 2^(x - m), for raw logits x in bits.
    """
    bits = scale * _LOG2E
    raw_max = max * bits
    origin = tl.where(raw_max == float("-inf"), 0.0, raw_max)
    # No less than 2^-126, which adds nothing, where 0 * -inf would be NaN; a NaN logit makes both sums NaN.
    below_max = tl.maximum(tl.fma(logits, bits, -origin), -126.0, propagate_nan=tl.PropagateNan.ALL)
    exp = tl.exp2(below_max)
    # In this order `below_max` need not outlive the first sum, which saves registers.
    xsumexp = tl.sum(below_max * exp, axis=0)
    sumexp = tl.sum(exp, axis=0)
    tl.store(sums.raw_max + offset, raw_max)
    tl.store(sums.raw_sumexp + offset, sumexp)
    tl.store(sums.raw_xsumexp + offset, xsumexp)


@triton.jit
def evidence_dot_weight(raw_logit, sums, offset, weight_ptr, PADDED_NUM_BLOCKS: tl.constexpr):
    """Second half: v . e of one verified token, from the sums of its verifying row's blocks."""
    blocks = tl.arange(0, PADDED_NUM_BLOCKS)
    mask = blocks < sums.num_blocks
    local_max = tl.load(sums.raw_max + offset + blocks, mask=mask, other=float("-inf"))
    local_sumexp = tl.load(sums.raw_sumexp + offset + blocks, mask=mask, other=0.0)
    local_xsumexp = tl.load(sums.raw_xsumexp + offset + blocks, mask=mask, other=0.0)

    # Move every block's sums from its own maximum to the row's. A block of nothing but -inf has sums of nothing.
    max = tl.max(local_max, axis=0)
    shift = tl.where(local_max == float("-inf"), 0.0, local_max - max)
    scale = tl.exp2(shift)
    sumexp = tl.sum(local_sumexp * scale, axis=0)
    xsumexp = tl.sum((local_xsumexp + shift * local_sumexp) * scale, axis=0)

    log_sumexp = tl.log2(sumexp)
    margin = max - raw_logit * _LOG2E
    nats = (
        tl.load(weight_ptr) * (-margin - log_sumexp)
        + tl.load(weight_ptr + 1) * (log_sumexp - xsumexp / sumexp)
        + tl.load(weight_ptr + 2) * margin
    ) * _LOGE2
    return nats + tl.load(weight_ptr + 3) / sumexp
