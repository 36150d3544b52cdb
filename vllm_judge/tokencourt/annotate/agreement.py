"""How far two annotators agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from sklearn.metrics import cohen_kappa_score

from vllm_judge.tokencourt.annotate.store import Opinion


@dataclass(frozen=True)
class Agreement:
    """Of two annotators on the answers that both judged, skips left out.

    Attributes:
        pair: their names.
        both: how many answers both judged.
        kappa: Cohen's kappa of the verdicts; None where it is undefined: both gave one and the same verdict throughout,
            or they share no answer.
        same_place: of the answers in which both marked a mistake, the share with overlapping marks; None without any.
    """

    pair: tuple[str, str]
    both: int
    kappa: float | None
    same_place: float | None


def agreements(opinions: Mapping[str, Mapping[str, Opinion]]) -> list[Agreement]:
    """Every pair's agreement, from opinions by annotator and by the answer's id."""
    return [_agreement(pair, opinions[pair[0]], opinions[pair[1]]) for pair in combinations(sorted(opinions), 2)]


def _agreement(pair: tuple[str, str], left: Mapping[str, Opinion], right: Mapping[str, Opinion]) -> Agreement:
    shared = sorted(left.keys() & right.keys())
    verdicts = [left[id].verdict.value for id in shared], [right[id].verdict.value for id in shared]
    kappa = float(cohen_kappa_score(*verdicts)) if len({*verdicts[0], *verdicts[1]}) > 1 else None
    marks = [(left[id].mistake, right[id].mistake) for id in shared]
    overlaps = [a.start < b.end and b.start < a.end for a, b in marks if a is not None and b is not None]
    return Agreement(pair, len(shared), kappa, sum(overlaps) / len(overlaps) if overlaps else None)
