"""Whether vllm-judge fits a version of vLLM, told from its sources without running or installing them.

    python scripts/check_vllm.py 0.33.0                    # downloads the wheel with pip
    python scripts/check_vllm.py path/to/vllm.whl          # or a folder that holds the package `vllm`

Prints every function, name, Triton kernel and text of vllm_judge.engine.contract, and everything that this
package imports from vLLM, with what does not fit; exit status 1 where something does not. `--save` writes what was
found to tests/contract/VERSION.json, which tests/unit/engine/test_contract.py holds the code to.
"""

import argparse
import ast
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import vllm_wheel
from rich.console import Console
from rich.table import Table

from vllm_judge.engine.contract import CONTRACT, Expectation, Names, Sources

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "tests" / "contract"


def expectations() -> dict[str, Expectation]:
    """The contract, and what this package and its kernels import from vLLM, by a name for each."""
    imported: dict[str, set[str]] = {}
    for file in (*(ROOT / "vllm_judge").rglob("*.py"), *(ROOT / "kernels").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vllm":
                imported.setdefault(node.module, set()).update(alias.name for alias in node.names)
    stated: dict[str, Expectation] = {}
    for expected in CONTRACT:
        name = f"{type(expected).__name__.lower()} {expected.target}"
        known = stated.get(name)
        if isinstance(known, Names) and isinstance(expected, Names):  # read in more than one place
            expected = Names(expected.target, tuple(sorted({*known.names, *expected.names})))
        stated[name] = expected
    return {
        **stated,
        **{f"import {module}": Names(module, tuple(sorted(names))) for module, names in sorted(imported.items())},
    }


def look(sources: Sources) -> dict[str, Any]:
    """What a vLLM has in place of each thing that is expected of it."""
    return {name: expected.find(sources) for name, expected in expectations().items()}


def mismatches(found: dict[str, Any]) -> dict[str, str | None]:
    """What does not fit of what was found, for each thing that is expected."""
    return {name: expected.mismatch(found.get(name)) for name, expected in expectations().items()}


def unpacked(source: str, folder: Path) -> Path:
    """The folder that holds the package `vllm`, of a version, a wheel or such a folder."""
    path = Path(source)
    if path.is_dir():
        return path
    wheel = path if path.suffix == ".whl" else vllm_wheel.wheel(source)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vllm", help="a version, the path of a wheel, or a folder that holds the package vllm")
    parser.add_argument("--save", action="store_true", help="write what was found to tests/contract/")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            root = unpacked(arguments.vllm, Path(folder))
        except vllm_wheel.NoWheel as error:
            sys.exit(str(error))
        found = look(Sources(root))
        # vcs-versioning writes: __version__ = version = '0.33.0'
        [version] = re.findall(r"^__version__.* = '(.+)'", (root / "vllm" / "_version.py").read_text(), re.MULTILINE)
    table = Table("expected", f"vLLM {version}", title=f"vllm-judge on vLLM {version}")
    fits = mismatches(found)
    for name, problem in fits.items():
        table.add_row(name, problem or "as expected", style="red" if problem else None)
    Console().print(table)
    problems = sum(problem is not None for problem in fits.values())
    print(f"{problems} of {len(fits)} do not fit vLLM {version}")
    if arguments.save:
        FOUND.mkdir(exist_ok=True)
        (FOUND / f"{version}.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
