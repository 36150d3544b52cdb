"""What replayed texts amount to, author by author, and replay.json."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_judge.measuring.statistics import Estimate, ratio
from vllm_judge.replay.texts import Text
from vllm_judge.replay.verifier import Verdicts, cycles

VERDICTS = ("strict", "judge only", "rejected")
RULES = ("strict", "judge")

DEFINITIONS = {
    "share_of_tokens": "every token of the texts, read after the author's own words before it: accepted by the strict "
    "test (it is the target's most likely token), by the judge only, or rejected by both; with a 95% bootstrap over "
    "texts",
    "accepted_per_cycle": "accepted tokens by cycles, all texts of an author together, with a 95% bootstrap over "
    "texts. A cycle's drafts are the next M tokens of the text, of which the longest accepted prefix counts; the "
    "text's next token stands in the place of the target's own one that follows in an engine, and is not counted",
    "accepted_counts": "number of cycles that accepted 0, 1, ... M tokens",
    "cut_counts": "those of them that accepted all of a text's last tokens, fewer than M",
    "probability": "the target's probability of the token, at temperature 1",
    "judge_probability": "the judge's probability that the token is right",
    "preferred": "the target's most likely token, and its probability",
}


@dataclass(frozen=True)
class Replayed:
    """A text and what was found of it."""

    text: Text
    verdicts: Verdicts


@dataclass(frozen=True)
class RuleCycles:
    """The cycles of a rule over an author's texts; see DEFINITIONS."""

    accepted_per_cycle: Estimate
    accepted_counts: list[int]
    cut_counts: list[int]


@dataclass(frozen=True)
class AuthorSummary:
    """An author's texts; `share_of_tokens` by VERDICTS, `rules` by RULES; see DEFINITIONS."""

    author: str
    texts: int
    tokens: int
    share_of_tokens: dict[str, Estimate]
    rules: dict[str, RuleCycles]


def summarise(replayed: Sequence[Replayed], num_speculative_tokens: int) -> list[AuthorSummary]:
    """A summary for each author, in the order of their first texts."""
    authors = dict.fromkeys(one.text.author for one in replayed)
    return [
        _summary(author, [one.verdicts for one in replayed if one.text.author == author], num_speculative_tokens)
        for author in authors
    ]


def _summary(author: str, found: Sequence[Verdicts], num_speculative_tokens: int) -> AuthorSummary:
    lengths = [len(verdicts.strict) for verdicts in found]
    shares = {verdict: ratio([verdicts.names.count(verdict) for verdicts in found], lengths) for verdict in VERDICTS}
    accepted = {"strict": [verdicts.strict for verdicts in found], "judge": [verdicts.judged for verdicts in found]}
    rules = {rule: _cycles(accepted[rule], num_speculative_tokens) for rule in RULES}
    return AuthorSummary(author, len(found), sum(lengths), shares, rules)


def _cycles(accepted: Sequence[Sequence[bool]], longest: int) -> RuleCycles:
    by_text = [cycles(tokens, longest) for tokens in accepted]
    counts = Counter(kept for found in by_text for kept in found)
    # Every cycle but a text's last is followed by one token; a last one that is not has come to the text's end.
    cut = Counter(
        found[-1]
        for found, tokens in zip(by_text, accepted, strict=True)
        if sum(found) + len(found) > len(tokens) and found[-1] < longest
    )
    return RuleCycles(
        ratio([sum(found) for found in by_text], [len(found) for found in by_text]),
        [counts[kept] for kept in range(longest + 1)],
        [cut[kept] for kept in range(longest + 1)],
    )


def write_json(
    path: Path, replayed: Sequence[Replayed], summaries: Sequence[AuthorSummary], about: Mapping[str, Any]
) -> None:
    """Writes replay.json: definitions, summaries, and every token of every text.

    Args:
        about: settings, machine and command, plain JSON values.
    """
    texts = [asdict(one.text) | {"verdicts": one.verdicts.names} | asdict(one.verdicts) for one in replayed]
    report = {**about, "definitions": DEFINITIONS, "authors": [asdict(one) for one in summaries], "texts": texts}
    path.write_text(json.dumps(report, ensure_ascii=False) + "\n", encoding="utf-8")
