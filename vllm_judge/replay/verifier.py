"""Texts that someone else wrote, fed to the target as if they were drafts: what would each rule accept of them?

This is the experiment that motivates Judge Decoding (Bachmann et al., ICLR 2025, arXiv 2501.19309): strict verification
rejects even a better author's text every few tokens, because it asks whether the target would have used the same words.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from vllm_judge.decoding.pair import load_head
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead, logit
from vllm_judge.special_tokens import special_token_ids
from vllm_judge.tokencourt.tokenizer import load_tokenizer
from vllm_judge.training.sources import Rows, Source

TEXTS = 64  # that are read side by side, where the source can


@dataclass(frozen=True)
class Verdicts:
    """What the target and the judge say of the N tokens of a text, each read after the text before it.

    Attributes:
        strict: whether the token is the target's argmax.
        judge: whether the judge accepts it and may.
        probability: the target's probability of the token.
        judge_probability: the judge's probability that the token is right.
        preferred: the target's argmax, a token id; preferred_probability: its probability.
    """

    strict: list[bool]
    judge: list[bool]
    probability: list[float]
    judge_probability: list[float]
    preferred: list[int]
    preferred_probability: list[float]

    @property
    def judged(self) -> list[bool]:
        """Whether judge decoding accepts the token: the strict test does, or the judge."""
        return [strict or judge for strict, judge in zip(self.strict, self.judge, strict=True)]

    @property
    def names(self) -> list[str]:
        """Of each token "strict", "judge only" or "rejected"."""
        pairs = zip(self.strict, self.judge, strict=True)
        return ["strict" if strict else "judge only" if judge else "rejected" for strict, judge in pairs]


@dataclass(frozen=True)
class Verifier:
    """A target with its tokenizer and a judge head.

    Attributes:
        source: what runs the target.
        threshold: a probability in [0, 1].
        protected: end-of-sequence and special tokens, which only the strict test may accept.
    """

    source: Source
    tokenizer: PreTrainedTokenizerBase
    head: JudgeHead
    threshold: float
    protected: Collection[int]

    @classmethod
    def load(cls, target: str, head: str, threshold: float | None, open_source: Callable[[], Source]) -> "Verifier":
        """Loads head and target.

        Args:
            target, head: folders or Hub repositories.
            threshold: None: the head's own.
            open_source: loads the target; called once all else is found to fit.

        Raises:
            JudgeError: there is no such target, or the source refuses it.
            HeadError: the head cannot be loaded, or is for another hidden size than the target's.
        """
        tokenizer = load_tokenizer(target, "--target")
        config = AutoConfig.from_pretrained(target)
        judge = load_head(head, config)
        try:
            generation = GenerationConfig.from_pretrained(target)
        except OSError:  # a model need not have one of its own
            generation = GenerationConfig.from_model_config(config)
        end = generation.eos_token_id
        ends = [] if end is None else [end] if isinstance(end, int) else end
        protected = {*ends, *special_token_ids(tokenizer)}
        return cls(open_source(), tokenizer, judge, judge.threshold if threshold is None else threshold, protected)

    def verify(self, texts: Sequence[tuple[list[int], list[int]]]) -> Iterator[Verdicts]:
        """Reads texts, some side by side, and judges every token of each.

        Args:
            texts: of each the prompt, at least one token, and the N >= 1 tokens that follow it.

        Raises:
            JudgeError: a prompt and its text are longer than the target can read.
        """
        lengths = [len(prompt) + len(text) for prompt, text in texts]
        if self.source.longest is not None and max(lengths, default=0) > self.source.longest:
            raise JudgeError(
                f"prompt and text have {max(lengths)} tokens, and the target reads at most {self.source.longest}."
            )
        for start in range(0, len(texts), TEXTS):
            asked = [
                _Asked(str(index), [*prompt, *text], list(range(len(prompt), len(prompt) + len(text))))
                for index, (prompt, text) in enumerate(texts[start : start + TEXTS])
            ]
            rows = self.source.read(asked)
            sizes = [len(one.rows) for one in asked]
            for one, *found in zip(asked, *(column.split(sizes) for column in rows), strict=True):
                yield self._verdicts(one, Rows(*found))

    def _verdicts(self, one: "_Asked", rows: Rows) -> Verdicts:
        tokens = torch.tensor([one.ids[row] for row in one.rows])
        said = rows.evidence
        score = self.head.score(rows.hidden, said)
        permitted = (said[:, 0] > -torch.inf) & ~torch.isin(tokens, torch.tensor(sorted(self.protected)))
        return Verdicts(
            strict=(rows.preferred == tokens).tolist(),
            judge=((score > logit(self.threshold)) & permitted).tolist(),
            probability=said[:, 0].exp().tolist(),
            judge_probability=score.sigmoid().tolist(),
            preferred=rows.preferred.tolist(),
            preferred_probability=said[:, 3].tolist(),
        )


@dataclass(frozen=True)
class _Asked:
    """See `training.sources.Text`."""

    id: str
    ids: list[int]
    rows: list[int]


def cycles(accepted: Sequence[bool], num_speculative_tokens: int) -> list[int]:
    """Cuts a text into the cycles of speculative decoding; how many drafts does each one accept?

    A cycle's drafts are the text's next M tokens, or what is left of it. As in an engine the longest accepted prefix is
    kept and one token of the target's own follows; here the text's own token stands in its place: the rejected one, or,
    where all M were accepted, the token after them. The next cycle begins after that token. Only the last cycle may
    have fewer than M drafts: the text's end cuts it short.

    Args:
        accepted: of each token of the text, whether a rule accepts it.
        num_speculative_tokens: M >= 1.

    Returns:
        accepted drafts of each cycle; their sum and number are at most len(accepted).
    """
    found = []
    start = 0
    while start < len(accepted):
        drafts = accepted[start : start + num_speculative_tokens]
        kept = drafts.index(False) if False in drafts else len(drafts)
        found.append(kept)
        start += kept + 1
    return found
