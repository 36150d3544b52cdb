"""Where the judge may accept at all, in the kernels: `reference.allowed`, and thinking.py's automaton."""

from vllm.triton_utils import tl, triton


@triton.jit
def is_allowed(
    constrained_logit,
    draft_token,
    req_state_idx,
    protected_ptr,
    stop_token_ids_ptr,
    stop_token_ids_stride,
    num_stop_token_ids_ptr,
    PADDED_NUM_STOP_TOKEN_IDS: tl.constexpr,
):
    """Whether the judge may accept a (non-negative) draft token at all (`reference.allowed`)."""
    is_protected = tl.load(protected_ptr + draft_token) != 0
    index = tl.arange(0, PADDED_NUM_STOP_TOKEN_IDS)
    stop_token_ids = tl.load(
        stop_token_ids_ptr + req_state_idx * stop_token_ids_stride + index,
        mask=index < tl.load(num_stop_token_ids_ptr + req_state_idx),
        other=-1,
    )
    is_stop = tl.max((stop_token_ids == draft_token).to(tl.int32), axis=0) != 0
    # NaN > -inf is false.
    return (constrained_logit > float("-inf")) & (is_protected == 0) & (is_stop == 0)


@triton.jit
def next_state(thinking, state, token):
    """The automaton's state after one token more (`ThinkingAutomaton.step`)."""
    token_class = tl.load(thinking.token_class + token).to(tl.int32)
    return tl.load(thinking.transition + state * thinking.num_classes + token_class)


@triton.jit
def state_of_text(thinking, req_state_idx):
    """The automaton's state after the last token that a request has emitted, which is stored with it."""
    state = tl.load(thinking.state + req_state_idx)
    total_len = tl.load(thinking.total_len + req_state_idx)
    for place in range(tl.load(thinking.num_read + req_state_idx), total_len):
        token = tl.load(thinking.all_token_ids + req_state_idx * thinking.all_token_ids_stride + place)
        state = next_state(thinking, state, tl.maximum(0, token))
    tl.store(thinking.state + req_state_idx, state)
    tl.store(thinking.num_read + req_state_idx, total_len)
    return state
