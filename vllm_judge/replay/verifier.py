"""Texts that someone else wrote, fed to the target as if they were drafts: what would each rule accept of them?

This is the experiment that motivates Judge Decoding (Bachmann et al., ICLR 2025, arXiv 2501.19309): strict verification
rejects even a better author's text every few tokens, because it asks whether the target would have used the same words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vllm_judge import output_layer
from vllm_judge.decoding.pair import load_head, load_model
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead, logit
from vllm_judge.kernels.reference import allowed, evidence
from vllm_judge.special_tokens import special_token_ids
from vllm_judge.threads import set_threads
from vllm_judge.tokencourt.tokenizer import load_tokenizer

ROWS = 256  # rows of logits that are in fp32 at the same time


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
    """A target with its tokenizer and a judge head; `threshold` is a probability in [0, 1]."""

    target: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: JudgeHead
    threshold: float

    @classmethod
    def load(cls, target: str, head: str, threshold: float | None, dtype: torch.dtype | str) -> "Verifier":
        """Loads target and head, onto a GPU where there is one.

        Args:
            target, head: folders or Hub repositories.
            threshold: None: the head's own.
            dtype: of the target, as `from_pretrained` takes it.

        Raises:
            JudgeError: there is no such target.
            HeadError: the head cannot be loaded, or is for another hidden size than the target's.
        """
        tokenizer, model = load_tokenizer(target, "--target"), load_model(target, dtype)
        set_threads(model)
        judge = load_head(head, model)
        return cls(model, tokenizer, judge, judge.threshold if threshold is None else threshold)

    @torch.inference_mode()
    def verify(self, prompt_ids: Sequence[int], text_ids: Sequence[int]) -> Verdicts:
        """Reads prompt and text in one pass and judges every token of the text.

        Args:
            prompt_ids: at least one token.
            text_ids: N >= 1 tokens that follow it.

        Raises:
            JudgeError: together they are longer than the target can read.
        """
        length = len(prompt_ids) + len(text_ids)
        longest = getattr(self.target.config.get_text_config(), "max_position_embeddings", length)
        if length > longest:
            raise JudgeError(f"prompt and text have {length} tokens, and the target reads at most {longest}.")
        ids = torch.tensor([[*prompt_ids, *text_ids]], device=self.target.device)
        with output_layer.inputs(self.target) as seen:
            output = self.target(ids, use_cache=False)
        tokens = ids[0, len(prompt_ids) :]
        logits = output.logits[0, len(prompt_ids) - 1 : -1]  # row i - 1 verifies token i,
        hidden = seen[0][0, len(prompt_ids) :]  # the judge reads the token's own row
        protected = self._protected(logits.shape[-1])
        parts = [
            self._rows(*rows, protected)
            for rows in zip(logits.split(ROWS), hidden.split(ROWS), tokens.split(ROWS), strict=True)
        ]
        return Verdicts(*(torch.cat(column).tolist() for column in zip(*parts, strict=True)))

    def _rows(
        self, logits: torch.Tensor, hidden: torch.Tensor, tokens: torch.Tensor, protected: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The fields of Verdicts, in order, for some rows."""
        said = evidence(logits, tokens)
        score = self.head.score(hidden, said)
        judge = (score > logit(self.threshold)) & allowed(logits, tokens, protected)
        preferred = logits.argmax(dim=-1)
        return preferred == tokens, judge, said[:, 0].exp(), score.sigmoid(), preferred, said[:, 3]

    def _protected(self, vocab_size: int) -> torch.Tensor:
        """[V] bool: end-of-sequence and special tokens, which only the strict test may accept."""
        end = self.target.generation_config.eos_token_id
        ends = [] if end is None else [end] if isinstance(end, int) else end
        special = {*ends, *special_token_ids(self.tokenizer)}
        protected = torch.zeros(vocab_size, dtype=torch.bool, device=self.target.device)
        protected[[index for index in special if index < vocab_size]] = True
        return protected


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
