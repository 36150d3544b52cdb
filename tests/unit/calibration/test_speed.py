"""The number of drafts from speeds: which deployment is chosen, and what is written of it.

It would catch: a number that keeps no promise, a schedule of heads or thresholds that one deployment cannot have,
ranges that vLLM refuses, a judge.json beside a head that is not the one that was timed.
"""

import json
from pathlib import Path

import pytest
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from vllm_judge.calibration import num_drafts, speed
from vllm_judge.calibration.speed import JUDGED, PLAIN, STRICT, Speed
from vllm_judge.config import read_speculative_config
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead

# Judged tokens/s by number of drafts and requests at a time: few drafts are best for many requests.
SPEEDS = {4: {1: 200, 8: 900}, 8: {1: 300, 8: 800}, 16: {1: 400, 8: 500}}


def deployment(folder: Path, drafts: int, threshold: float = 0.5, bias: float = 0.0, method: str = "ngram") -> Path:
    provenance = {"method": "none", "calibration": {"promise": "kept", "points": []}}
    head = JudgeHead(8, threshold=threshold, target_model="T", provenance=provenance).requires_grad_(False)
    head.bias.fill_(bias)
    head.save_pretrained(folder)
    config = {"method": method, "num_speculative_tokens": drafts, "judge": {"model": "."}}
    (folder / "judge.json").write_text(json.dumps(config))
    return folder


def speeds(folders: dict[int, Path]) -> list[Speed]:
    def one(head: str, mode: str, drafts: int, at: int, value: float) -> Speed:
        rounds = [value, 2 * value, value]  # the median is not the mean
        return Speed(settings={}, head=head, mode=mode, drafts=drafts, concurrency=at, tokens_per_s=rounds)

    timed = [one("", PLAIN, 0, at, 100) for at in (1, 8)]
    for drafts, folder in folders.items():
        for at in (1, 8):
            timed += [one(str(folder), JUDGED, drafts, at, SPEEDS[drafts][at])]
            timed += [one(str(folder), STRICT, drafts, at, 150 - drafts)]
    return timed


def chosen(folders: dict[int, Path], engine: dict[str, int] | None = None):
    return num_drafts.choose(speed.deployments(list(folders.values())), speeds(folders), engine or {})


def test_each_concurrency_has_its_fastest_number_and_vllm_takes_the_ranges(tmp_path):
    folders = {drafts: deployment(tmp_path / str(drafts), drafts) for drafts in SPEEDS}
    served, levels = chosen(folders)
    assert served.drafts == 16, "vLLM takes no range above num_speculative_tokens"
    assert [(level.concurrency, level.judged.drafts) for level in levels] == [(1, 16), (8, 4)]
    assert {level.strict.drafts for level in levels} == {4}, "strict verification's own best number"
    ranges = num_drafts.schedule(levels)
    assert ranges == [(1, 1, 16), (2, 8, 4)]
    assert build_dynamic_sd_schedule_lookup(ranges, 10, served.drafts) == [0, 16, *[4] * 9]

    head = num_drafts.write(tmp_path / "out", served, levels, 32, 3)
    config, section = read_speculative_config(tmp_path / "out")
    assert config["num_speculative_tokens_per_batch_size"] == [[1, 1, 16], [2, 8, 4]]
    assert section is not None and section.model == str(tmp_path / "out")
    assert head.provenance["speed"]["levels"][0]["over_plain"] == {"median": 4.0, "low": 2.0, "high": 8.0}
    assert "| 8 | 900, 4 drafts | 9.00 (4.50 to 18.00) |" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((folders[16] / "judge.json").read_text()).keys() == {"method", "num_speculative_tokens", "judge"}


@pytest.mark.parametrize(
    ("differing", "engine"),
    [({"method": "dflash"}, {}), ({}, {"data_parallel_size": 2}), ({"threshold": 0.9}, {}), ({"bias": 1.0}, {})],
    ids=["drafter", "data parallel", "threshold", "head"],
)
def test_one_number_where_a_deployment_can_have_no_other(differing, engine, tmp_path):
    """The fastest over both concurrencies is 8 drafts: 300 x 800 is more than 200 x 900 and 400 x 500."""
    all_differ = "method" in differing or not differing
    folders = {
        drafts: deployment(tmp_path / str(drafts), drafts, **(differing if all_differ or drafts == 8 else {}))
        for drafts in SPEEDS
    }
    served, levels = chosen(folders, engine)
    assert served.drafts == 8 and num_drafts.schedule(levels) is None
    num_drafts.write(tmp_path / "out", served, levels, 32, 3)
    config, _ = read_speculative_config(tmp_path / "out")
    assert config == {"method": differing.get("method", "ngram"), "num_speculative_tokens": 8}


def test_strict_verification_is_timed_with_numbers_of_its_own_too(tmp_path):
    candidates = speed.deployments([deployment(tmp_path / str(drafts), drafts) for drafts in (4, 8)])
    engines = speed.runs(candidates, [8, 2])
    assert [(one.drafts, bool(one.head), list(one.dials)) for one in engines] == [
        (0, False, [PLAIN]),
        (2, False, [STRICT]),
        (4, True, [STRICT, JUDGED]),
        (8, True, [STRICT, JUDGED]),
    ]
    assert engines[1].config == {"method": "ngram", "num_speculative_tokens": 2}
    assert engines[2].config == {**candidates[0].config, "judge": {"model": str(tmp_path / "4")}}
    more = Speed(settings={}, head="", mode=STRICT, drafts=2, concurrency=8, tokens_per_s=[170])
    _, levels = num_drafts.choose(candidates, [*speeds({4: tmp_path / "4", 8: tmp_path / "8"}), more], {})
    assert [level.strict.drafts for level in levels] == [4, 2]


def test_only_heads_that_keep_a_promise_are_candidates(tmp_path):
    kept, refused = deployment(tmp_path / "4", 4), deployment(tmp_path / "16", 16)
    (refused / "judge.json").unlink()
    assert [one.folder for one in speed.deployments([kept, refused])] == [kept]
    with pytest.raises(JudgeError, match=r"none of .*16 holds a judge\.json: `vllm-judge calibrate` makes it"):
        speed.deployments([refused])


def test_a_new_choice_leaves_nothing_of_an_earlier_one(tmp_path):
    served, levels = chosen({drafts: deployment(tmp_path / str(drafts), drafts) for drafts in SPEEDS})
    num_drafts.write(tmp_path / "out", served, levels, 32, 3)
    other, levels = chosen({8: deployment(tmp_path / "8", 8, threshold=0.9)})
    num_drafts.write(tmp_path / "out", other, levels, 32, 3)
    assert read_speculative_config(tmp_path / "out")[0] == {"method": "ngram", "num_speculative_tokens": 8}
    assert JudgeHead.from_pretrained(tmp_path / "out").threshold == 0.9
