"""Texts to replay: from a JSONL file, or about the demo's word problems."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PreTrainedTokenizerBase

from vllm_judge.evaluation.replay import ReplayError
from vllm_judge.tokencourt import records

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

    prompt: str | None = Field(default=None, min_length=1)
    messages: list[dict[str, str]] | None = Field(default=None, min_length=1)
    text: str = Field(min_length=1)
    author: str = Field(default=UNNAMED, min_length=1)

    @model_validator(mode="after")
    def _one_prompt(self) -> "TextLine":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self


def read_texts(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """The texts of a JSONL file, see `TextLine`.

    Raises:
        RecordError: the file cannot be read, or a line is no text.
        ReplayError: the file holds no text, or one without tokens.
    """
    texts = []
    for number, line in enumerate(records.read(path, TextLine), 1):
        try:
            texts.append(_text(line, tokenizer))
        except ReplayError as error:
            raise ReplayError(f"{path}, line {number}: {error}") from None
    if not texts:
        raise ReplayError(f"{path} holds no text.")
    return texts


def demo_texts(n: int, seed: int, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """Three authors' answers to the demo's first `n` fresh word problems of a seed.

    The draft's own answers, and two made by the grammar: a right one in the words that the target rarely uses, and the
    same with one wrong number.
    """
    from transformers import AutoModelForCausalLM

    from vllm_judge.demo import trio
    from vllm_judge.demo.answers import answer
    from vllm_judge.demo.documents import wrong_number
    from vllm_judge.demo.tokenizer import render_prompt
    from vllm_judge.demo.world import problems, solution_pieces

    asked = problems(n, seed, "test")
    prompts = [render_prompt(problem.question) for problem in asked]
    draft = AutoModelForCausalLM.from_pretrained(trio.strict_config()["model"]).eval()
    rng = random.Random(seed)
    authors: dict[str, list[str]] = {"right, in other words": [], "one number wrong": []}
    for problem in asked:
        pieces = solution_pieces(problem, 1.0, rng)
        authors["right, in other words"].append("".join(pieces))
        index = rng.choice([i for i, slot in enumerate(problem.slots) if slot.is_number])
        pieces[index] = f" {wrong_number(int(pieces[index]), rng)}"
        authors["one number wrong"].append("".join(pieces))
    authors["the draft model"] = [tokenizer.decode(ids) for ids in answer(draft, tokenizer, prompts)]
    return [
        _text(TextLine(prompt=prompt, text=text, author=author), tokenizer)
        for author, texts in authors.items()
        for prompt, text in zip(prompts, texts, strict=True)
        if text
    ]


def _text(line: TextLine, tokenizer: PreTrainedTokenizerBase) -> Text:
    if line.messages is None:
        prompt = line.prompt or ""
        prompt_ids = tokenizer.encode(prompt)
    else:
        prompt = str(tokenizer.apply_chat_template(line.messages, add_generation_prompt=True, tokenize=False))
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    if not tokenizer.is_fast:
        raise ReplayError("the target's tokenizer cannot tell which characters belong to which token (it is not fast).")
    encoded = tokenizer(line.text, add_special_tokens=False, return_offsets_mapping=True)
    token_ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if not prompt_ids or not token_ids:
        raise ReplayError("the prompt or the text holds no token.")
    return Text(line.author, prompt, prompt_ids, token_ids, _pieces(line.text, offsets))


def _pieces(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """Cuts a text at the ends of its tokens, so that the pieces make up the text whatever the tokenizer leaves out."""
    ends = [0]
    for _, end in offsets:
        ends.append(max(ends[-1], end))
    ends[-1] = len(text)
    return [text[start:end] for start, end in itertools.pairwise(ends)]
