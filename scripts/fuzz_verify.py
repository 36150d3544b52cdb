"""The differential campaign: random verification steps at every edge, through all that verifies.

    scripts/fuzz_verify.py --steps 100                  # of each path
    scripts/fuzz_verify.py --path v1 --case 18          # one step again, by its seed
    scripts/fuzz_verify.py --steps 500 -o docs/measurements/fuzz_verify.json

A case is one request's verification. Paths: `kernels`, the fused kernels (on the GPU, or in Triton's interpreter)
against the oracle kernels/reference.py, and, with a head that rejects all, against vLLM's own kernels, bit for bit;
`v1`, the V1 sampler against the oracle and against vLLM's own, likewise. And the distribution of what is sampled, by a
chi-square test, for heads that reject all, accept some and accept all. tests/fuzz/ says what the steps are made of
and what counts as the same.

With --output the results are added to the file's, and seeds go on where it stops. Exit code 1: something differs.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vllm_judge.measuring.provenance import about

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PATHS = "kernels", "v1"
# Requests behind each p-value: the interpreter takes 30 ms for one.
SAMPLED = {"kernels": 600, "v1": 50_000}
LEAST_P = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", choices=PATHS, help="one of the two paths only")
    parser.add_argument("--steps", type=int, default=20, help="steps of each path, of about 50 to 100 cases each")
    parser.add_argument("--first", type=int, help="the first step's seed; by default the next after the file's")
    parser.add_argument("--seconds", type=float, default=3600.0, help="the longest that a path may take")
    parser.add_argument("--case", type=int, metavar="SEED", help="the step of this seed alone")
    parser.add_argument("--sampled", type=int, help="requests behind each p-value; 0: no distribution")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file that the results are added to")
    parser.add_argument("--in-child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_child:
        print(json.dumps(run(options)))
        return 0
    failed = False
    for path in [options.path] if options.path else PATHS:
        found = in_child(path, options)
        cases, differences = sum(found["cases"].values()), found["differences"]
        print(f"{path}: {cases} cases, {len(differences)} differences, {found['seconds']:.0f} s, p {found['p_values']}")
        print(*differences, sep="\n", end="")
        failed |= bool(differences) or any(p < LEAST_P for p in found["p_values"].values())
        if options.output:
            add(options.output, path, found)
    return int(failed)


def in_child(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs a path in a process of its own: Triton chooses between interpreter and compiler when it is imported."""
    known = read(options.output)["paths"].get(path) if options.output else None
    follows = known["seeds"][-1][1] if known and known["seeds"] else 0
    first = follows if options.first is None else options.first
    sampled = SAMPLED[path] if options.sampled is None else options.sampled
    if known and known["p_values"]:
        sampled = 0
    steps = options.steps
    if options.case is not None:
        first, steps, sampled = options.case, 1, 0
    command = [sys.executable, __file__, "--in-child", "--path", path, "--first", str(first), "--steps", str(steps)]
    command += ["--seconds", str(options.seconds), "--sampled", str(sampled)]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if path == "kernels" and not torch.cuda.is_available():
        from environments import INTERPRETER

        env |= INTERPRETER | {"PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], INTERPRETER["PYTHONPATH"]])}
    child = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(child.stdout.splitlines()[-1])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The steps of the seeds from `first` on, then the distribution, in this process."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy, of NaN and infinities
    verifier, distribution = import_module(f"fuzz.{options.path}"), import_module("fuzz.distribution")
    cases: Counter[str] = Counter()
    differences: list[str] = []
    start, seed = time.monotonic(), options.first
    while seed < options.first + options.steps and time.monotonic() - start < options.seconds:
        counted, different = verifier.run(seed)
        cases += counted
        differences += different
        seed += 1
    p_values = distribution.p_values(verifier.first_tokens, 1, options.sampled) if options.sampled else {}
    return {
        "seeds": [[options.first, seed]],
        "cases": dict(cases),
        "differences": differences,
        "p_values": p_values,
        "sampled": options.sampled,
        "seconds": time.monotonic() - start,
    }


def read(file: Path) -> dict[str, Any]:
    text = file.read_text() if file.exists() else ""
    return json.loads(text) if text else {"paths": {}}


def add(file: Path, path: str, found: dict[str, Any]) -> None:
    """Adds what was found of a path to a file's; several campaigns may write to one file."""
    with file.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        results = read(file)
        before = results["paths"].get(
            path, {"seeds": [], "cases": {}, "differences": [], "p_values": {}, "seconds": 0.0}
        )
        results["paths"][path] = {
            "seeds": sorted(before["seeds"] + [pair for pair in found["seeds"] if pair[0] < pair[1]]),
            "cases": dict(sorted((Counter(before["cases"]) + Counter(found["cases"])).items())),
            "differences": before["differences"] + found["differences"],
            "p_values": before["p_values"] or found["p_values"],
            "sampled": before.get("sampled") or found["sampled"],
            "seconds": round(before["seconds"] + found["seconds"], 1),
        }
        settings = {"seeds": "first, and the one after the last", "sampled": "requests behind each p-value"}
        file.write_text(json.dumps({**about(settings), "paths": results["paths"]}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
