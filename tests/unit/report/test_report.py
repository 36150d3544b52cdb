"""Reports of results that this package's own writers wrote.

It would catch: a writer whose form the report no longer knows, a number without definition, a file of results that is
left out in silence, and a page that fetches something or lets a file's text become markup.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vllm_judge
from vllm_judge.cli import app
from vllm_judge.comparison.answers import Answer, Contender
from vllm_judge.comparison.points import summarise as summarise_points
from vllm_judge.comparison.points import write_results
from vllm_judge.decoding.rules import all_rules
from vllm_judge.demo import run
from vllm_judge.demo.outcome import Outcome
from vllm_judge.measuring.provenance import provenance
from vllm_judge.replay.summary import Replayed, summarise, write_json
from vllm_judge.replay.texts import Text
from vllm_judge.replay.verifier import Verdicts

MEASUREMENTS = Path(__file__).parents[3] / "docs" / "measurements"
MACHINE = {"device": "a device", "commit": "0123abc"}
OUTCOME = Outcome((True, True, False, True), 100, 2.0, cycles=10, drafted=40, accepted=25, judge_only=5)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with what every command writes."""
    (tmp_path / "compare").mkdir()
    rules = all_rules()
    chosen = [Contender(rules["strict"], {}), *(Contender(rules["p-threshold"], {"threshold": t}) for t in (0.1, 0.3))]
    answers = [
        [
            Answer(question=str(i), right=i > 0, tokens=20, cycles=[2 + j, 4], judge_only=j, text="text")
            for i in range(9)
        ]
        for j, _ in enumerate(chosen)
    ]
    settings = {"questions": "questions.jsonl", "n": 9, "num_speculative_tokens": 8, "temperature": 0.0}
    settings["target"] = f"{Path(vllm_judge.__file__).parent}/demo/target"
    about = {"settings": settings, "machine": MACHINE}
    sources = {name: rules[name].source for name in ("strict", "p-threshold")}
    write_results(tmp_path / "compare" / "results.json", summarise_points(chosen, answers, 8), sources, about)
    (tmp_path / "compare" / "identity.json").write_text("{}")

    words = Text("<b>me</b>", "a prompt", [1], [1, 2, 3], [" one", " <i>", " three"])
    replayed = [Replayed(words, Verdicts([True, False, False], [False, True, False], *[[0.5] * 3] * 4))]
    about = {
        "settings": {"texts": "texts.jsonl", "num_speculative_tokens": 2},
        "machine": MACHINE,
        "command": "replay it",
    }
    write_json(tmp_path / "replay.json", replayed, summarise(replayed, 2), about)

    faster = replace(OUTCOME, seconds=1.0)
    outcomes = {run.PLAIN: replace(OUTCOME, cycles=0), "strict": OUTCOME, "judge": faster}
    run.write_json(tmp_path / "demo.json", outcomes, {"n": 4, "seed": 0})
    figures = {name: outcome.figures() for name, outcome in outcomes.items()}
    served = {"plain": figures[run.PLAIN], "strict": figures["strict"], "judge": figures["judge"]}
    (tmp_path / "quickstart.json").write_text(json.dumps(served))
    runs = [{"mode": "strict", "num_speculative_tokens": m, "batch": 1, **figures["strict"]} for m in (2, 4)]
    runs.append({"mode": "plain", "num_speculative_tokens": 0, "batch": 1, **figures[run.PLAIN]})
    ratios = [{"batch": 1, "best strict / plain": 1.0}]
    benchmark = {"machine": MACHINE, "settings": {"n": 4}, "runs": runs, "ratios of tokens_per_s": ratios}
    (tmp_path / "bench.json").write_text(json.dumps(benchmark))
    level = {"concurrency": 4, "n": 8, "tokens_per_s": 100.0, "requests_per_s": 2.0, "goodput_per_s": None}
    level |= {f"{name}_{at}": 12.5 for name in ("ttft_ms", "tpot_ms") for at in ("p50", "p99")}
    level |= {"accepted_per_cycle": 3.0, "judge_only_share": 0.125}
    serving = [{"mode": mode, **level} for mode in ("plain", "strict", "judge")]
    about = {"settings": {"n": 8}, "machine": MACHINE, "command": "serve it", "quality": None}
    ratios = [{"concurrency": 4, "tokens/s, judge / plain": 1.75}]
    (tmp_path / "serve.json").write_text(json.dumps({**about, "serving": serving, "ratios": ratios}))
    case = {"kind": "greedy", "accepted_by": "judge", "batch": 4, "num_drafts": 8, "vocab_size": 9, "hidden_size": 6}
    cases = [{**case, "ours": {"bytes": 123_000_000}, "vllm": {"bytes": 99_000_000}}]
    (tmp_path / "kernels.json").write_text(json.dumps({"settings": {}, "machine": MACHINE, "cases": cases}))
    checked = CliRunner().invoke(
        app,
        ["project", "--check", str(MEASUREMENTS / "bench_offline_cpu.json"), "--json", str(tmp_path / "check.json")],
    )
    assert checked.exit_code == 0, checked.output
    given = ["--accepted", "6", "--num-speculative-tokens", "8", "--target-step", "20", "--draft-step", "2"]
    projected = CliRunner().invoke(app, ["project", *given, "--json", str(tmp_path / "projection.json")])
    assert projected.exit_code == 0, projected.output
    return tmp_path


def made(folder: Path) -> str:
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    return (folder / "report.html").read_text()


def test_every_result_has_its_section_with_numbers_definitions_and_provenance(results):
    page = made(results)
    titles = re.findall(r'<h2 id="section-\d+">(.*?)</h2>', page)
    assert titles == [
        "Rules compared on questions.jsonl",
        "Replay of texts.jsonl",
        "The embedded models in vLLM",
        "The embedded models served with vllm serve",
        "Speed of the embedded models in vLLM",
        "Speed of vllm serve under load",
        "Verification kernels",
        "Projected speed-up (not measured)",
        "How far projections are off",
    ]
    compared, replayed, demo, served, speed, loaded, kernels, projected, checked = page.split("<h2 id=")[1:10]
    assert "88.9" in compared and "tokens per forward" in compared and "Wilson" in compared
    assert "33.3" in replayed and "replay it" in replayed
    assert "75.0" in demo and "McNemar" in demo
    assert "50" in served and "best strict / plain" in speed
    assert "1.75" in loaded and "Quality was not measured" in loaded and "serve it" in loaded
    assert "123.00" in kernels and "no time was measured" in kernels
    assert "6.00 are expected to be accepted" in projected
    assert "8B/405B in gpt-fast" in checked and "judge, 16 drafts, batch 1" in checked
    for section in (compared, replayed, speed, loaded, kernels):
        assert "0123abc" in section
    assert provenance()["torch"] in demo and "not recorded" not in demo
    assert "not recorded" in served


def test_the_page_needs_nothing_but_itself(results):
    page = made(results)
    assert not re.search(r"https?://|(?:src|href)=\"(?!data:|#)|@import|url\(", page)
    pictures = re.findall(r"<img .*?>", page)
    assert len(pictures) == 3
    assert all(re.search(r'alt="[^"]{20,}"', picture) for picture in pictures)


def test_text_from_files_stays_text(results):
    page = made(results)
    assert "<b>me</b>" not in page and "&lt;b&gt;me&lt;/b&gt;" in page
    assert '<span class="token judge-only"> &lt;i&gt;</span>' in page


def test_the_folder_of_the_installation_is_not_told(results):
    page = made(results)
    assert "target: vllm_judge/demo/target" in page
    assert str(Path(vllm_judge.__file__).parent) not in page


def test_a_file_in_no_known_form_is_named(results):
    (results / "broken.json").write_text("{")
    (results / "other.json").write_text('{"a": 1}')
    assert "broken.json, other.json" in made(results)


def test_a_folder_without_results_is_one_sentence(tmp_path):
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.startswith(f"vllm-judge: {tmp_path} holds no results: ")
    assert done.output.count("\n") == 1
