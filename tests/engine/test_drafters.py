"""Every drafter that vLLM has, with a judge: what it drafts is verified as the reference says, step by step.

A run records which drafts each step verified. The text is then written anew, by transformers' target and
kernels/reference.py on the same drafts, and must be the engine's, and so must the counts. These tests would catch: a
drafter that moves the rows that the judge reads, drafts of a length of their own, drafts with probabilities or from
another vocabulary, fillers that are judged, requests that hear each other's dial, a judge that changes strict steps.

`--every-drafter` runs all; without it some that differ most. `--write-support FILE` keeps what was seen, from which
scripts/write_support.py writes docs/support.md.
"""

import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import drafters
import pytest
import server
import tiny
import torch
from drafters import DIALS, DRAFTERS, LENGTH
from environments import CPU, NUM_DRAFTS, RUNNERS
from transformers import AutoModelForCausalLM

from vllm_judge import JudgeHead
from vllm_judge.head import logit
from vllm_judge.kernels.reference import allowed, evidence, verify

# One process runs all cells of a model runner: the first of its tests waits for it.
pytestmark = pytest.mark.timeout(3600)

HOST = Path(__file__).parent / "drafter_host.py"
PROTECTED = torch.zeros(tiny.VOCAB, dtype=torch.bool)
PROTECTED[[0, tiny.EOS, tiny.SPECIAL]] = True
Cell = tuple[str, str, str]  # runner, drafter, feature
ASYNCHRONOUSLY = "asynchronous scheduling"
# What CI runs: rows of different lengths, fillers, half a vocabulary, a state that the model norms late, no drafts at
# all in many steps.
SOME = {
    ("v1", "custom_class"),
    ("v1", "eagle3, half the vocabulary"),
    ("v1", "mtp (MiMo)"),
    ("v1", "ngram"),
    ("v2", "eagle3, half the vocabulary"),
    ("v2", "ngram"),
}


def cells(feature: str, names: list[str] | None = None) -> list[Any]:
    """The runners and drafters that vLLM has together, those that only --every-drafter runs marked."""
    return [
        pytest.param(runner, name, marks=() if _in_ci(runner, name, feature) else pytest.mark.every_drafter)
        for runner in RUNNERS
        for name in names or DRAFTERS
        if runner not in DRAFTERS[name].limits
    ]


def _in_ci(runner: str, name: str, feature: str) -> bool:
    return feature == "verification" and (runner, name) in SOME


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drafters.make_models(tmp_path_factory.mktemp("drafters"), list(DRAFTERS))


@pytest.fixture(scope="session")
def run(
    models: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[..., dict[str, Any]]:
    """What drafter_host.py found of a cell; the first that a process is asked for runs all that this session wants."""
    found: dict[Cell, Path] = {}
    wanted = [cell for item in request.session.items for cell in _cells_of(item)]

    def run(runner: str, drafter: str, feature: str = "verification") -> dict[str, Any]:
        if (runner, drafter, feature) not in found:
            own_process = feature == ASYNCHRONOUSLY
            together = {c for c in wanted if c[0] == runner and (c[2] == ASYNCHRONOUSLY) == own_process}
            here = sorted(together, key=wanted.index)
            output = tmp_path_factory.mktemp(runner)
            _run_host(models, output, runner, here, own_process)
            found.update({cell: output / f"{number}.json" for number, cell in enumerate(here)})
        return json.loads(found[runner, drafter, feature].read_text())

    return run


def _cells_of(item: pytest.Item) -> list[Cell]:
    """What a test that is not going to be skipped needs of the host."""
    needed, callspec = item.get_closest_marker("host"), getattr(item, "callspec", None)
    if needed is None or callspec is None or item.get_closest_marker("skip") is not None:
        return []
    runner, drafter = callspec.params["runner"], callspec.params["drafter"]
    return [(runner, drafter, feature) for feature in needed.args if _can_be_had(drafter)]


def _can_be_had(drafter: str) -> bool:
    return drafter != "suffix" or importlib.util.find_spec("arctic_inference") is not None


def _run_host(models: Path, output: Path, runner: str, wanted: list[Cell], own_process: bool) -> None:
    """own_process: whether engines get a process of their own, without which V1 drafts nothing asynchronously."""
    environment = {**os.environ, **CPU, **RUNNERS[runner], "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(own_process))}
    environment["TORCH_COMPILE_DISABLE"] = "1"  # to compile a model's small functions takes longer than to run it
    path = os.pathsep.join(filter(None, [str(HOST.parents[1]), environment.get("PYTHONPATH")]))
    log = output / "log"
    with log.open("w") as sink:
        child = subprocess.run(
            [sys.executable, str(HOST), str(models), str(output), *(f"{name}/{what}" for _, name, what in wanted)],
            env={**environment, "PYTHONPATH": path},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    assert child.returncode == 0, log.read_text()[-6000:]


@pytest.fixture(autouse=True)
def available(request: pytest.FixtureRequest, record_property: Callable[..., None]) -> None:
    cell = getattr(request.node, "callspec", None) and request.node.callspec.params
    if cell and not _can_be_had(cell["drafter"]):
        reason = "arctic-inference is not installed"
        record_property("support", [cell["runner"], cell["drafter"], "all", "not run", reason])
        pytest.skip(reason)


@pytest.fixture
def seen(record_property: Callable[..., None]) -> Callable[..., None]:
    """Says what a test shows, should it pass: seen(runner, drafter, feature, result, reason)."""

    def seen(runner: str, drafter: str, feature: str, result: str = "tested", reason: str = "") -> None:
        record_property("support", [runner, drafter, feature, result, reason])

    return seen


@pytest.fixture(scope="session")
def targets(models: Path) -> Callable[[str], Any]:
    """For T token ids the input of the output layer [T, H] and the logits [T, V], by transformers."""
    loaded: dict[str, Any] = {}

    def target(name: str) -> Any:
        if name not in loaded:
            loaded[name] = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32).eval()

        @torch.inference_mode()
        def read(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
            output = loaded[name](torch.tensor([ids]), output_hidden_states=True)
            return output.hidden_states[-1][0], output.logits[0]

        return read

    return target


def threshold(dial: dict[str, Any]) -> float:
    return logit(dial.get("judge_threshold", 0.5)) if dial.get("judge", True) else torch.inf


class Rewritten:
    """A text written anew on the drafts that an engine verified, and what is to be counted of it."""

    def __init__(
        self,
        read: Any,
        head: JudgeHead,
        prompt: list[int],
        drafts_at: dict[int, list[int]],
        threshold: float,
        proposed: Callable[[list[int]], int],
    ):
        text, self.accepted, self.judge_only = list(prompt), 0, 0
        while len(text) < len(prompt) + LENGTH and text[-1] != tiny.EOS:
            drafts = drafts_at.pop(len(text), [])
            hidden, logits = read([*text, *drafts])
            tokens, own, rows = torch.tensor(drafts, dtype=torch.long), hidden[len(text) :], logits[len(text) - 1 :]
            score = head.score(own, evidence(rows[:-1], tokens))
            permitted = allowed(rows[:-1], tokens, PROTECTED) & (torch.arange(len(drafts)) < proposed(text))
            step = verify(rows, tokens, score, threshold, permitted, temperature=0.0)
            text += step.tokens.tolist()
            self.accepted += step.num_accepted
            self.judge_only += step.judge_only
        self.tokens = text[len(prompt) : len(prompt) + LENGTH]
        self.not_reached = drafts_at


def assert_as_the_reference(
    models: Path, read: Any, runner: str, drafter: str, found: dict[str, Any], dials: list[dict[str, Any]]
) -> None:
    head = JudgeHead.from_pretrained(str(models / "random"))
    filled = runner == "v2" and drafter == "ngram"  # vLLM fills the places that this one leaves empty
    expected = []
    for request, (prompt, dial) in enumerate(zip(drafters.prompts(), dials, strict=True)):
        drafts_at = {place: drafts for of, place, *drafts in found["steps"] if of == request}
        proposed = (lambda text: len(drafters.looked_up(text))) if filled else (lambda text: NUM_DRAFTS)
        expected.append(Rewritten(read, head, prompt, drafts_at, threshold(dial), proposed))
    assert not any(text.not_reached for text in expected)
    assert found["texts"] == [text.tokens for text in expected]
    counts = found["counts"]
    assert counts["drafts"] == len(found["steps"]) > 0
    assert counts["accepted_tokens"] == sum(text.accepted for text in expected)
    assert counts["judge_only_tokens"] == sum(text.judge_only for text in expected) <= counts["accepted_tokens"]


@pytest.mark.host("verification")
@pytest.mark.parametrize(("runner", "drafter"), cells("verification"))
def test_a_head_that_rejects_all_gives_vllms_own_text(run, seen, runner, drafter):
    seen(runner, drafter, "head that rejects all")
    found = run(runner, drafter)
    assert "error" not in found, found
    assert found["rejecting"] == found["strict"] and found["strict"][0] != found["strict"][1]


@pytest.mark.host("verification")
@pytest.mark.parametrize("dials", DIALS)
@pytest.mark.parametrize(("runner", "drafter"), cells("verification"))
def test_every_step_is_the_references_and_so_are_the_counts(run, seen, models, targets, runner, drafter, dials):
    seen(runner, drafter, dials)
    found = run(runner, drafter)
    assert "error" not in found, found
    read = targets(DRAFTERS[drafter].target)
    assert_as_the_reference(models, read, runner, drafter, found[dials], DIALS[dials])
    assert found["accept all"]["counts"]["judge_only_tokens"] > 0


class Refused(NamedTuple):
    """What cannot be configured: with which of vLLM's EngineArgs, who says so, and in which words."""

    runner: str
    drafter: str
    feature: str
    result: str
    sentence: str
    options: dict[str, Any]


def refused() -> Iterator[Refused]:
    limit = "vLLM's own limit"
    asynchronous = "Currently, async scheduling is only supported with EAGLE/MTP/Draft Model/NGram GPU/DSpark/DFlash"
    adaptive = {
        "v1": "Model Runner V1 does not support: adaptive draft verification",
        "v2": "Adaptive verification requires full CUDA graphs",
    }
    stages = (
        "judge cannot be used with pipeline_parallel_size 2 on model runner V1, whose first stages fail for want of a "
        "drafter: use pipeline_parallel_size 1."
    )
    for runner, name in itertools.product(RUNNERS, DRAFTERS):
        if runner in DRAFTERS[name].limits:
            yield Refused(runner, name, "all", limit, DRAFTERS[name].limits[runner], {})
            continue
        if not DRAFTERS[name].asynchronous:
            options: dict[str, Any] = {"async_scheduling": True}
            yield Refused(runner, name, ASYNCHRONOUSLY, limit, asynchronous, options)
        if runner == "v1" or not torch.cuda.is_available():
            options = {"speculative_config": {"enable_adaptive_verification": True}}
            yield Refused(runner, name, "adaptive verification", limit, adaptive[runner], options)
        if runner == "v1":
            options = {"pipeline_parallel_size": 2}
            yield Refused(runner, name, "pipeline parallelism", "refused", stages, options)


REFUSED = list(refused())
CONFIGURE = """
import json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm_judge.engine.plugin import register
register()
said = []
for arguments in json.loads(sys.argv[1]):
    try:
        EngineArgs(**arguments).create_engine_config()
        said.append("")
    except Exception as error:
        said.append(str(error))
print(json.dumps(said))
"""


@pytest.fixture(scope="session")
def said(models: Path) -> Callable[[Refused], str]:
    """What is said, in a process of its own for each runner, when it is configured with a judge."""

    @functools.cache
    def of_runner(runner: str) -> list[str]:
        arguments = []
        for case in REFUSED:
            if case.runner == runner:
                config = drafters.speculative_config(models, case.drafter) | {
                    "judge": {"model": str(models / "random")}
                }
                config |= case.options.get("speculative_config", {})
                target = str(models / DRAFTERS[case.drafter].target)
                arguments.append({"model": target, **case.options, "speculative_config": config})
        program = [sys.executable, "-c", CONFIGURE, json.dumps(arguments)]
        environment = {**os.environ, **CPU, **RUNNERS[runner]}
        environment["PYTHONPATH"] = os.pathsep.join([str(HOST.parents[1]), environment.get("PYTHONPATH", "")])
        child = subprocess.run(program, env=environment, capture_output=True, text=True)
        assert child.returncode == 0, child.stderr[-3000:]
        return json.loads(child.stdout.splitlines()[-1])

    def said(case: Refused) -> str:
        return of_runner(case.runner)[[c for c in REFUSED if c.runner == case.runner].index(case)]

    return said


@pytest.mark.parametrize(
    ("runner", "drafter", "case"), [pytest.param(c.runner, c.drafter, c, id="-".join(c[:3])) for c in REFUSED]
)
def test_what_cannot_be_is_refused_when_it_is_configured(said, seen, runner, drafter, case):
    seen(*case[:5])
    assert case.sentence in said(case)


ASYNCHRONOUS = [name for name, drafter in DRAFTERS.items() if drafter.asynchronous]


@pytest.mark.host("verification", ASYNCHRONOUSLY)
@pytest.mark.parametrize(("runner", "drafter"), cells(ASYNCHRONOUSLY, ASYNCHRONOUS))
def test_asynchronous_scheduling_changes_neither_texts_nor_counts(run, seen, runner, drafter):
    seen(runner, drafter, ASYNCHRONOUSLY)
    found = run(runner, drafter, ASYNCHRONOUSLY)
    assert "error" not in found, found
    wanted = run(runner, drafter)["accept all"]
    assert found["accept all"]["texts"] == wanted["texts"]
    assert found["accept all"]["counts"] == wanted["counts"] and wanted["counts"]["judge_only_tokens"] > 0


BY_BATCH_SIZE = ["draft_model", "eagle3", "ngram"]


@pytest.mark.host("drafts by batch size")
@pytest.mark.parametrize(("runner", "drafter"), cells("drafts by batch size", BY_BATCH_SIZE))
def test_as_many_drafts_as_the_batch_allows_are_judged(run, seen, models, targets, runner, drafter):
    seen(runner, drafter, "drafts by batch size")
    found = run(runner, drafter, "drafts by batch size")
    assert "error" not in found, found
    read = targets(DRAFTERS[drafter].target)
    for dials in ("default", "accept all"):
        assert_as_the_reference(models, read, runner, drafter, found[dials], DIALS[dials])
    lengths = {len(drafts) for _, _, *drafts in found["accept all"]["steps"]}
    assert 2 in lengths and max(lengths) <= NUM_DRAFTS


@pytest.mark.every_drafter
@pytest.mark.host("verification")
@pytest.mark.parametrize(("runner", "drafter"), [("v1", "draft_model")])
def test_two_data_parallel_engines_behind_two_servers_count_as_one(run, seen, models, tmp_path, runner, drafter):
    seen(runner, drafter, "two data-parallel engines, two servers")
    expected, twice = run(runner, drafter)["default"], drafters.prompts() * 2
    config = {**drafters.speculative_config(models, drafter), "judge": {"model": str(models / "random")}}
    arguments = ["--data-parallel-size", "2", "--api-server-count", "2", "--max-num-seqs", "4"]
    with server.serving(models, json.dumps(config), tmp_path / "log", *arguments) as client:

        def complete(prompt: list[int]) -> list[int]:
            body = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": LENGTH, "return_token_ids": True}
            return client.post("/v1/completions", json=body).json()["choices"][0]["token_ids"]

        with ThreadPoolExecutor(len(twice)) as clients:
            assert list(clients.map(complete, twice)) == expected["texts"] * 2
        for name in ("drafts", "accepted_tokens", "judge_only_tokens"):
            assert server.counted(client, name) == 2 * expected["counts"][name]
        lines = client.get("/metrics").text.splitlines()
        for counter in ("num_drafts_total{", "judge_cycles_total{"):
            of_each = [float(line.rsplit(" ", 1)[1]) for line in lines if counter in line and "shadow" not in line]
            assert len(of_each) == 2 and min(of_each) > 0 and sum(of_each) == 2 * expected["counts"]["drafts"]
        assert sum(line.startswith("vllm:judge_info{") for line in lines) == 2
