"""Measures the final-answer check against published answers with published scores, for docs/tokencourt.md.

    python scripts/measure_answer_check.py FOLDER [--show N]

FOLDER holds these public files, each under the name given here; those that are not there are passed over.

    gsm8k_solutions.jsonl   openai/grade-school-math, grade_school_math/data/example_model_solutions.jsonl
    gsm8k_test.jsonl        openai/grade-school-math, grade_school_math/data/test.jsonl
    math_test.jsonl         microsoft/ToRA, src/data/math/test.jsonl: the 5,000 problems of MATH's test set
    processbench_*.json     Qwen/ProcessBench: gsm8k and math, whose references are in the two files above
    realcritic_*.jsonl      tangzhy/RealCritic, data/mix_data/*/test.jsonl

--show prints the disagreements, so that they can be read.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vllm_judge.progress import track
from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Verdict
from vllm_judge.tokencourt.expression import braced
from vllm_judge.tokencourt.final_answer import verdict_on

CHOICES = ("arc-challenge", "gpqa", "mmlu_stem")


class Scored(NamedTuple):
    """A published answer: where it is from, how it is checked, the reference, the text, and whether it scored."""

    name: str
    check: Check
    reference: str
    text: str
    is_right: bool


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON or JSONL file, none where it is not there."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line]


def scored(folder: Path) -> Iterator[Scored]:
    """All answers that are there."""
    for row in rows(folder / "gsm8k_solutions.jsonl"):
        reference = row["ground_truth"].rpartition("A:")[2].strip()
        for name, one in row.items():
            if isinstance(one, dict):
                yield Scored(f"GSM8K, {name}", Check.number, reference, one["solution"], one["is_correct"])
    references = {_words(row["question"]): row["answer"] for row in rows(folder / "gsm8k_test.jsonl")}
    references |= {_words(row["problem"]): _last_box(row["solution"]) for row in rows(folder / "math_test.jsonl")}
    for name, check in (("gsm8k", Check.number), ("math", Check.math)):
        for row in rows(folder / f"processbench_{name}.json"):
            reference = references.get(_words(row["problem"]), "").rpartition("####")[2].strip()
            if reference:
                text = "\n\n".join(row["steps"])
                yield Scored(f"ProcessBench, {name}", check, reference, text, row["final_answer_correct"])
    for path in sorted(folder.glob("realcritic_*.jsonl")):
        name = path.stem.removeprefix("realcritic_")
        check = Check.choice if name in CHOICES else Check.number if name == "gsm8k" else Check.math
        for row in rows(path):
            yield Scored(f"RealCritic, {name}", check, str(row["gt"]), row["reasoning"], row["previous_score"][0])


def _words(text: str) -> str:
    return " ".join(text.split())


def _last_box(solution: str) -> str:
    found = [braced(solution, box.end()) for box in re.finditer(r"\\boxed\s*\{", solution)]
    return next((one for one in reversed(found) if one is not None), "")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N disagreements of each kind")
    arguments = parser.parse_args()
    counts: dict[str, Counter[tuple[bool, Verdict]]] = {}
    shown: Counter[tuple[str, bool, Verdict]] = Counter()
    for one in track("answers", list(scored(arguments.folder))):
        verdict = verdict_on(one.text, one.reference, one.check)
        counts.setdefault(one.name, Counter())[one.is_right, verdict] += 1
        kind = one.name, one.is_right, verdict
        if (verdict == Verdict.right) != one.is_right and shown[kind] < arguments.show:
            shown[kind] += 1
            print(f"{one.name}, scored {one.is_right}, {verdict}: {one.reference!r}: ... {one.text[-200:]!r}")
    print("| answers | scored right | of these wrong | unknown | scored wrong | of these right | unknown |")
    print("|---|---|---|---|---|---|---|")
    for name, count in counts.items():
        cells = [name]
        for is_right, other in ((True, Verdict.wrong), (False, Verdict.right)):
            total = sum(number for (score, _), number in count.items() if score == is_right)
            cells += [f"{total:,}", str(count[is_right, other]), str(count[is_right, Verdict.unknown])]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
