"""`vllm-judge report`: what was measured in a folder, as one page with its pictures, definitions and provenance."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

import vllm_judge
from vllm_judge.benchmarks.engines import BenchmarkFile, DemoFile, QuickstartFile
from vllm_judge.benchmarks.kernels import KernelsFile
from vllm_judge.benchmarks.serving import ServingFile
from vllm_judge.comparison.answers import IDENTITY
from vllm_judge.comparison.section import ComparisonFile
from vllm_judge.errors import JudgeError
from vllm_judge.page.parts import Section
from vllm_judge.page.render import render
from vllm_judge.projection.section import ProjectionCheckFile, ProjectionFile
from vllm_judge.quality.mt_bench.section import MtBenchFile
from vllm_judge.quality.section import EvaluationFile
from vllm_judge.replay.section import ReplayFile

# In the order in which a page shows them.
Quality = ComparisonFile | EvaluationFile | MtBenchFile | ReplayFile
Speed = DemoFile | QuickstartFile | BenchmarkFile | ServingFile | KernelsFile | ProjectionFile | ProjectionCheckFile
Result = Quality | Speed
FORMS: tuple[type[Result], ...] = get_args(Result)


@dataclass(frozen=True)
class Found:
    """Sections by the names of the files that they are from, and the names of JSON files in no known form."""

    sections: dict[str, Section]
    unknown: list[str]


def find(folder: Path) -> Found:
    """Reads the JSON files of a folder and of the folders in it.

    Raises:
        JudgeError: none of them is a result of this package.
    """
    results: dict[str, Result] = {}
    unknown = []
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        result = _read(path)
        if result is not None:
            results[name] = result
        elif path.name != IDENTITY:
            unknown.append(name)
    if not results:
        raise JudgeError(
            f"{folder} holds no results: give a folder with what compare, replay, evaluate, demo --json or a benchmark "
            "wrote."
        )
    ordered = sorted(results, key=lambda name: FORMS.index(type(results[name])))
    return Found({name: results[name].section() for name in ordered}, unknown)


def page(found: Found, command: str) -> str:
    """The report as HTML, self-contained.

    Args:
        command: how the report was made.
    """
    return render(
        __package__,
        "report.html.jinja",
        sections=found.sections,
        unknown=found.unknown,
        version=vllm_judge.__version__,
        command=command,
    )


def _read(path: Path) -> Result | None:
    try:
        content = _without_install_path(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    for form in FORMS:
        try:
            return form.model_validate(content)
        except ValidationError:
            continue
    return None


def _without_install_path(content: Any) -> Any:
    """Names of embedded files without the folder in which this package happens to be installed."""
    installed = f"{Path(vllm_judge.__file__).parent.parent}/"
    if isinstance(content, str):
        return content.replace(installed, "")
    if isinstance(content, Mapping):
        return {key: _without_install_path(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_install_path(value) for value in content]
    return content
