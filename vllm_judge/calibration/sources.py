"""What decodes when thresholds are measured: vLLM in this process, vLLM behind a server, or plain transformers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from vllm_judge.comparison.answers import Contender
from vllm_judge.comparison.compare import BASELINE, Missing
from vllm_judge.decoding.batch import Decoded
from vllm_judge.decoding.pair import Sampling
from vllm_judge.decoding.questions import Question
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead


class Source(Protocol):
    """A target and its drafter, which answer strictly verified and judged."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The target's."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the head's config.json says of it, plain JSON values."""

    def load_head(self, name: str) -> JudgeHead:
        """A head's folder, see `JudgeHead.from_pretrained`."""

    def identity(self) -> dict[str, Any]:
        """What answers depend on, heads and sampling apart, see `AnswerFolder`."""

    def decode(
        self, chosen: Sequence[Contender], missing: Sequence[Missing], how: Sampling
    ) -> Iterator[tuple[Question, int, Decoded]]:
        """Answers what is missing, see `compare.Decode`. Contenders are `BASELINE`, and heads (the rule's name is the
        head's folder) at a threshold.

        Raises:
            JudgeError: it cannot, or no longer; what was given out before is right.
        """


def dial(contender: Contender) -> dict[str, Any]:
    """What a request says to the judge (see engine/dial.py) to be decoded so."""
    if contender.rule.name == BASELINE:
        return {"judge": False}
    # Of a server in shadow, or of a share, too.
    return {"judge_threshold": contender.setting["threshold"], "judge_mode": "judge"}


def by_head(
    chosen: Sequence[Contender], missing: Sequence[Missing]
) -> Iterator[tuple[str, list[tuple[Question, int]]]]:
    """The heads that something is missing of, each with the (question, contender) that its engine is asked; strict
    verification, which any of them does, is the first one's task.

    Questions are in order, so that a run that is killed has whole ones.
    """
    names = [one.rule.name for one in chosen]
    heads = list(dict.fromkeys(names[i] for one in missing for i in one.contenders if names[i] != BASELINE))
    first = heads[0] if heads else next(name for name in names if name != BASELINE)
    for head in heads or [first]:
        own = {head, BASELINE} if head == first else {head}
        yield head, [(one.question, i) for one in missing for i in one.contenders if names[i] in own]


def check_room(asked: Sequence[tuple[Question, int]], how: Sampling, max_model_len: int, option: str) -> None:
    """Refuses questions whose answers could be cut off by the target's context.

    Raises:
        JudgeError: they could.
    """
    longest = max(len(question.prompt_ids) for question, _ in asked)
    if longest + how.max_new_tokens > max_model_len:
        raise JudgeError(
            f"the longest question has {longest} tokens and its answer may have {how.max_new_tokens} more, but the "
            f"engine's max_model_len is {max_model_len}: lower --max-new-tokens, or raise it ({option})."
        )


def cycles(histogram: Sequence[int], without_drafts: int) -> list[int]:
    """Accepted drafts of each cycle, in ascending order.

    Args:
        histogram: [M + 1] how many verifications accepted 0, 1, ... M drafts, as vLLM counts them; a step after the
            first token that had nothing to verify is a cycle that accepted none.
    """
    counts = Counter(dict(enumerate(histogram)))
    counts[0] += without_drafts
    return sorted(counts.elements())
