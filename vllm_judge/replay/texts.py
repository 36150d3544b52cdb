"""Texts to replay, from a JSONL file."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PreTrainedTokenizerBase

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Message
from vllm_judge.tokencourt.court import Text as NonEmpty
from vllm_judge.tokencourt.tokenizer import prompt_ids as chat_prompt_ids
from vllm_judge.tokencourt.tokenizer import text_tokens

UNNAMED = "unnamed"


@dataclass(frozen=True)
class Text:
    """A text, tokenized.

    Attributes:
        author: who wrote it.
        prompt: what it answers, as the target reads it; `prompt_ids`: at least one token.
        token_ids: N >= 1 tokens; `pieces`: what each adds to the text, "" where a token only completes a character.
    """

    author: str
    prompt: str
    prompt_ids: list[int]
    token_ids: list[int]
    pieces: list[str]


class TextLine(BaseModel):
    """A line of the file.

    Attributes:
        prompt: what the text continues; or `messages`: a conversation, to which the target's chat template is applied.
        text: what the author wrote. It is tokenized on its own and appended to the prompt's tokens.
        author: texts of one author are summed up together.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: NonEmpty | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    text: NonEmpty
    author: NonEmpty = UNNAMED

    @model_validator(mode="after")
    def _one_prompt(self) -> "TextLine":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self


def read_lines(path: Path) -> list[TextLine]:
    """The lines of a JSONL file.

    Raises:
        JudgeError: the file cannot be read, a line is no text, or there is none.
    """
    lines = records.read(path, TextLine)
    if not lines:
        raise JudgeError(f"{path} holds no text.")
    return lines


def texts_of(path: Path, lines: Sequence[TextLine], tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """The texts of a file's lines, in the target's tokens.

    Raises:
        JudgeError: a prompt or a text holds no token, or the chat template fails on a conversation.
    """
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(tokenized(line, tokenizer))
        except JudgeError as error:
            raise JudgeError(f"{path}, line {number}: {error}") from None
    return texts


def tokenized(line: TextLine, tokenizer: PreTrainedTokenizerBase) -> Text:
    """A line's text in the target's tokens.

    Raises:
        JudgeError: the prompt or the text holds no token, or the tokenizer is not a fast one.
    """
    if line.messages is None:
        prompt = line.prompt or ""
        prompt_ids = tokenizer.encode(prompt)
    else:
        prompt_ids = chat_prompt_ids(line.messages, tokenizer, None, line.author)
        prompt = str(tokenizer.decode(prompt_ids, clean_up_tokenization_spaces=False))
    if not tokenizer.is_fast:
        raise JudgeError("the target's tokenizer cannot tell which characters belong to which token (it is not fast).")
    token_ids, offsets = text_tokens(line.text, tokenizer)
    if not prompt_ids or not token_ids:
        raise JudgeError("the prompt or the text holds no token.")
    return Text(line.author, prompt, prompt_ids, token_ids, _pieces(line.text, offsets))


def _pieces(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """Cuts a text at the ends of its tokens, so that the pieces make up the text whatever the tokenizer leaves out."""
    ends = [0]
    for _, end in offsets:
        ends.append(max(ends[-1], end))
    ends[-1] = len(text)
    return [text[start:end] for start, end in itertools.pairwise(ends)]
