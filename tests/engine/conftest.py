"""Real engines for the tests of this folder: tiny random checkpoints, fp32, model runner V1 and V2."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from environments import CPU, CPU_TWO_RANKS, KV_CACHE_BYTES, NUM_DRAFTS, RUNNERS

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`, the tests of a model runner run in one process and share its engines."""
    for item in items:
        if runner := getattr(item, "callspec", None) and item.callspec.params.get("runner"):
            item.add_marker(pytest.mark.xdist_group(runner))


class Engine:
    """An `LLM` in a process of its own: `host.py` at the other end of two pipes."""

    def __init__(self, runner: str, options: dict[str, Any], log: Path):
        request_read, request_write = os.pipe()
        reply_read, reply_write = os.pipe()
        self.log = log
        cpu = CPU_TWO_RANKS if options.get("tensor_parallel_size") == 2 else CPU
        # An engine's workers import what the tests of this folder put into them.
        python_path = os.pathsep.join(
            filter(None, [RUNNERS[runner].get("PYTHONPATH", os.environ.get("PYTHONPATH")), str(HERE)])
        )
        with log.open("w") as sink:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "host.py"), str(request_read), str(reply_write)],
                pass_fds=(request_read, reply_write),
                env={**os.environ, **cpu, **RUNNERS[runner], "PYTHONPATH": python_path},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(request_read)
        os.close(reply_write)
        self.requests, self.replies = os.fdopen(request_write, "w"), os.fdopen(reply_read)
        assert self._exchange({"asynchronous": False, **options}, raw=True) == "ready\n"

    def generate(
        self,
        prompts: list[list[int]],
        params: dict[str, Any] | list[dict[str, Any]],
        unchecked: bool = False,
        statistics: bool = False,
    ) -> list[dict[str, Any]]:
        """Answers (tokens, logprobs, finish_reason) to all prompts in one batch; unchecked: past the front end;
        statistics: with vLLM's of each request's speculation."""
        message = {"call": "generate", "prompts": prompts, "unchecked": unchecked, "statistics": statistics}
        reply = self._exchange({**message, "params": params if isinstance(params, list) else [params] * len(prompts)})
        if isinstance(reply, dict):
            raise ValueError(reply["error"])
        return reply

    def counted(
        self, prompts: list[list[int]], params: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Answers, and what they added to vLLM's counters of speculation and preemption."""
        before = self.metrics()
        answers = self.generate(prompts, params)
        after = self.metrics()
        return answers, {name: after[name] - before[name] for name in after}

    def metrics(self) -> dict[str, float]:
        """vLLM's counters and gauges of these, by name and their own labels' values."""
        return self._exchange({"call": "metrics"})

    def _exchange(self, message: dict[str, Any], raw: bool = False) -> Any:
        self.requests.write(json.dumps(message) + "\n")
        self.requests.flush()
        reply = self.replies.readline()
        if not reply:
            pytest.fail(f"the engine died:\n{self.log.read_text()[-3000:]}")
        return reply if raw else json.loads(reply)

    def close(self) -> None:
        self.requests.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with target, draft, eager_draft, target_zero and draft_zero (the same, where token 0 is an ordinary
    one), and the heads none, random, random_plain."""
    root = tmp_path_factory.mktemp("models")
    target = tiny.make_target(root / "target")
    draft = tiny.make_draft(target, root / "draft")
    tiny.make_eager_draft(draft, root / "eager_draft", [tiny.EOS, tiny.SPECIAL])
    for name in ("target", "draft"):
        tiny.make_tokenizer(Path(shutil.copytree(root / name, root / f"{name}_zero")), zero_is_ordinary=True)
    tiny.make_head(root / "none", -100.0, use_evidence=True)
    tiny.make_head(root / "random", 0.0, scale=0.3, use_evidence=True)
    tiny.make_head(root / "random_plain", 0.0, scale=0.3)
    return root


@pytest.fixture(scope="session", params=sorted(RUNNERS))
def runner(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def engines(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Engine]]:
    """Makes engines and keeps the last two, of a gigabyte or two each, until the file's tests are done:
    engines(runner, judge="random", section={more of the section judge}, **options of LLM, or asynchronous=True)."""
    logs, alive = tmp_path_factory.mktemp("logs"), {}

    def engine(
        runner: str,
        judge: str | None = None,
        draft: str = "draft",
        drafter: dict[str, Any] | None = None,
        section: dict[str, Any] | None = None,
        **options: Any,
    ) -> Engine:
        speculative: dict[str, Any] = {"num_speculative_tokens": NUM_DRAFTS}
        speculative |= {"method": "draft_model", "model": str(models / draft)} if drafter is None else drafter
        if judge is not None:
            speculative["judge"] = {"model": str(models / judge), **(section or {})}
        options = {
            "model": str(models / "target"),
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 256,
            "max_num_seqs": 8,
            "kv_cache_memory_bytes": KV_CACHE_BYTES,
            "disable_log_stats": False,
            "per_request_spec_decode_metrics": "detailed",
            "speculative_config": speculative,
            "reasoning_config": {"reasoning_start_str": "w10", "reasoning_end_str": "w11"},
            **options,
        }
        key = json.dumps([runner, options], sort_keys=True)
        if key in alive:
            alive[key] = alive.pop(key)
        else:
            while len(alive) > 1:
                alive.pop(next(iter(alive))).close()
            alive[key] = Engine(runner, options, logs / f"{len(list(logs.iterdir()))}.log")
        return alive[key]

    yield engine
    for started in alive.values():
        started.close()
