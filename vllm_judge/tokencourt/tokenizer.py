"""A model's tokenizer, and the prompt that serving makes of a chat."""

from collections.abc import Iterable
from pathlib import Path

import jinja2
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.court import Message


def load_tokenizer(name: str, option: str = "--tokenizer") -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub repository; `option` is what the user named it with.

    Raises:
        JudgeError: it cannot be loaded, or is not a fast one.
    """
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise JudgeError(f"{option} must be a model's folder or repository: there is no folder {name}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        if not Path(name).is_dir():
            raise JudgeError(f"{option}: {name} is no folder, and no repository on the Hub that can be read.") from None
        raise JudgeError(f"{option}: the tokenizer {name} cannot be loaded: {str(error).splitlines()[0]}") from None
    if not tokenizer.is_fast:
        raise JudgeError(f"{option}: {name} is no fast tokenizer: only those tell where tokens lie in a text.")
    return tokenizer


def text_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    """The N token ids of a text, and the characters [start, end) of each.

    A special token's name that is written in the text is text: the model writes such words letter by letter, or it
    would have ended there.

    Args:
        text: of an answer, without its prompt.
        tokenizer: a fast one.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
    return encoded["input_ids"], encoded["offset_mapping"]


def prompt_ids(
    messages: Iterable[Message], tokenizer: PreTrainedTokenizerBase, chat_template: str | None, id: str
) -> list[int]:
    """The tokens that `vllm serve` makes of a chat: both call the tokenizer's `apply_chat_template`.

    Args:
        messages: the chat, which the assistant is to continue.
        tokenizer: the target's.
        chat_template: as `vllm serve --chat-template` takes it; None is the tokenizer's own.
        id: of the question, for the message of an error.

    Returns:
        At least one token id.

    Raises:
        JudgeError: there is no chat template, or it fails on this chat.
    """
    if chat_template is None and tokenizer.chat_template is None:
        raise JudgeError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template: name the file that you serve with "
            "(--chat-template)."
        )
    chat = [message.model_dump() for message in messages]
    try:
        prompt = tokenizer.apply_chat_template(
            chat, chat_template=chat_template, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except jinja2.TemplateError as error:
        raise JudgeError(f"the chat template fails on the question of {id!r}: {error}.") from None
    if not prompt:
        raise JudgeError(f"the chat template makes nothing of the question of {id!r}.")
    return list(prompt)
