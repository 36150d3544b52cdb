"""`vllm-judge evaluate`: lm-eval's tasks on one engine, strictly verified and judged, answer by answer."""

import contextlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from vllm_judge.errors import JudgeError
from vllm_judge.quality.counters import Counters
from vllm_judge.quality.engines import Engine
from vllm_judge.quality.scores import STRICT


@dataclass(frozen=True)
class TaskOptions:
    """What lm-eval is to run.

    Attributes:
        names: of tasks or groups.
        folder: of more tasks' YAML files; file names in them are relative to it.
        limit: documents of each task; None: all. num_fewshot: examples in a prompt; None: as the task says.
        chat: apply the chat template.
        run_unsafe_code: allow tasks that run generated programs on this machine.
    """

    names: Sequence[str]
    folder: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat: bool = False
    run_unsafe_code: bool = False


@dataclass(frozen=True)
class Arm:
    """One way of decoding, and what it gave.

    Attributes:
        samples: lm-eval's samples of every task.
        members: the tasks of every group; higher_is_better: of every task and group, by metric.
        seconds, counted: time and counters of all answers.
    """

    samples: dict[str, list[dict[str, Any]]]
    members: dict[str, list[str]]
    higher_is_better: dict[str, dict[str, bool]]
    seconds: float
    counted: Counters


def arms(thresholds: Sequence[float], both_scopes: bool = False) -> dict[str, dict[str, Any]]:
    """The dials to compare, by name: strict verification first, then the judge at each threshold, or at its own.

    Args:
        both_scopes: each of these once more, confined to the reasoning part of answers.
    """
    judged: dict[str, dict[str, Any]] = {
        f"judge, threshold {threshold:g}": {"judge_threshold": threshold} for threshold in thresholds
    }
    # Of a server in shadow, or of a share, every request is judged here.
    judged = {name: dial | {"judge_mode": "judge"} for name, dial in (judged or {"judge": {"judge": "true"}}).items()}
    if both_scopes:
        everywhere, judged = judged, {}
        for name, dial in everywhere.items():
            judged[name] = dial | {"judge_scope": "everywhere"}
            judged[f"{name}, thinking only"] = dial | {"judge_scope": "thinking"}
    return {STRICT: {"judge": "false"}} | judged


def measure(engine: Engine, tasks: TaskOptions, dials: Mapping[str, dict[str, Any]]) -> dict[str, Arm]:
    """Runs the tasks under every dial, one after the other, on the same engine.

    The prefix cache of each run is its own, so that no run finds its prompts read by the one before.

    Raises:
        JudgeError: a task is unknown or generates no text, or a strict answer was judged.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.chdir(tasks.folder) if tasks.folder else contextlib.nullcontext():
        manager = TaskManager(include_path=str(Path.cwd()) if tasks.folder else None)
        _check(manager, tasks.names)
        for dial in dials.values():  # what an engine does at a dial's first request only should cost nobody time
            _run(engine, manager, tasks, dial, limit=1)
        found = {name: _run(engine, manager, tasks, dial, tasks.limit) for name, dial in dials.items()}
    refuse_judged(found[STRICT].counted)
    return found


def refuse_judged(counted: Counters) -> None:
    """Refuses what an engine counted during a strict run, if a judge accepted anything.

    Raises:
        JudgeError: it did.
    """
    if counted.judge_only:
        raise JudgeError(
            f"the engine counted {counted.judge_only:.0f} judge-only tokens while it was asked for strict verification "
            "only: let nobody else use it during an evaluation."
        )


def _run(engine: Engine, manager: TaskManager, tasks: TaskOptions, dial: dict[str, Any], limit: int | None) -> Arm:
    results = lm_eval.simple_evaluate(
        model=engine,
        tasks=list(tasks.names),
        task_manager=manager,
        limit=limit,
        num_fewshot=tasks.num_fewshot,
        apply_chat_template=tasks.chat,
        gen_kwargs=engine.arguments(dial, salt=secrets.token_hex(8)),
        confirm_run_unsafe_code=tasks.run_unsafe_code,
        bootstrap_iters=0,
    )
    better, members = results["higher_is_better"], results["group_subtasks"]
    return Arm(results["samples"], members, better, engine.seconds, engine.counted)


def _check(manager: TaskManager, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise JudgeError(f"lm-eval knows no task {', '.join(unknown)}: see `lm-eval ls tasks`, or give --tasks-folder.")
    for name, task in manager.load(list(names))["tasks"].items():
        if task.OUTPUT_TYPE != "generate_until":
            raise JudgeError(
                f"the task {name} scores given answers and generates none, so there is nothing to judge: "
                "choose a task that generates text."
            )
