"""What `make` says at its end of what it made."""

import pytest

from vllm_judge import JudgeHead
from vllm_judge.making.outcome import paragraph


def level(concurrency: int, over_plain: float, over_strict: float) -> dict:
    ratios = {"over_plain": over_plain, "over_strict": over_strict}
    return {
        "concurrency": concurrency,
        "judged": {"drafts": 8, "tokens_per_s": 100.0},
        "strict": {"drafts": 2},
        **{name: {"median": value, "low": value - 0.1, "high": value + 0.1} for name, value in ratios.items()},
    }


@pytest.mark.parametrize(
    ("levels", "advice"),
    [
        ([level(1, 2.0, 1.5), level(8, 1.2, 1.1)], "and ranges). Serve it:\nvllm serve T --speculative-config "),
        (
            [level(1, 2.0, 1.5), level(8, 1.2, 0.9)],
            "ranges). At 8 at a time it is slower here than the better of the two: serve that instead.",
        ),
        ([level(1, 0.9, 1.1), level(8, 0.5, 0.4)], "At 1 and 8 at a time it is slower here"),
    ],
)
def test_a_head_that_makes_nothing_faster_is_not_recommended(tmp_path, levels, advice):
    estimate = {"value": 0.9, "low": 0.8, "high": 0.95}
    point = {"setting": {"threshold": 0.5}, "accuracy": estimate, "n": 90, "accepted_per_cycle": 3.0}
    point["minus_strict"] = {"value": 0.0, "low": -0.01, "high": 0.01}
    provenance = {
        "calibration": {"points": [point], "lower_end": -0.01},
        "speed": {"levels": levels, "rounds": 3, "n": 16},
    }
    JudgeHead(hidden_size=4, threshold=0.5, provenance=provenance).save_pretrained(tmp_path / "judge")
    assert advice in paragraph(tmp_path / "judge", "T")
