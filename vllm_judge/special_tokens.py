"""Which tokens of a tokenizer are special: the judge never accepts one, in the engines and in every measurement."""

from typing import Any


def special_token_ids(tokenizer: Any) -> set[int]:
    """Ids of the special tokens, with the reserved ones that are marked special but have no role."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).items()
    return {*tokenizer.all_special_ids, *(index for index, token in added if getattr(token, "special", False))}
