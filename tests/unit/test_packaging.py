"""What a user gets: the wheel, installed without the checkout into an environment of its own.

It would catch: a folder without __init__.py or data files that the wheel leaves out, kernels/ missing as
vllm_judge.kernels, an entry point that vLLM does not see, an import of vLLM where none is needed, and a folder
`kernels` that hides Hugging Face's package of that name.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "kernels", "vllm_judge")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        origin, copy = ROOT / name, source / name
        if origin.is_dir():
            shutil.copytree(origin, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, copy)
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(output), str(source)]
    run(sys.executable, *build, cwd=source)
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel; the other packages are this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=folder)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # A folder named in a .pth file is searched, its own .pth files are not read: the checkout stays out.
    (site_packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def python(bin_folder: Path, code: str, cwd: Path) -> str:
    return run(bin_folder / "python", "-c", code, cwd=cwd)


def test_the_wheel_holds_every_file_of_the_package(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    kept = {".py", ".typed", ".json", ".jsonl", ".safetensors", ".md", ".jinja", ".html", ".yaml"}
    files = [file for folder in ("vllm_judge", "kernels") for file in (ROOT / folder).rglob("*") if file.suffix in kept]
    names = {str(file.relative_to(ROOT)) for file in files}
    names = {f"vllm_judge/{name}" if name.startswith("kernels/") else name for name in names}
    assert {name for name in names if "__pycache__" not in name} <= packed
    assert not any(name.startswith("kernels/") for name in packed)


def test_importing_the_package_leaves_vllm_alone(bin_folder, tmp_path):
    code = "import sys, vllm_judge; print(vllm_judge.__version__, vllm_judge.__file__, 'vllm' in sys.modules)"
    version, file, imported = python(bin_folder, code, tmp_path).split()
    assert version == "0.1.0"
    assert Path(file).is_relative_to(bin_folder.parent)
    assert imported == "False"


def test_the_rule_is_installed_as_a_subpackage(bin_folder, tmp_path):
    code = "from vllm_judge.kernels import reference; print(reference.__file__, callable(reference.verify))"
    file, found = python(bin_folder, code, tmp_path).split()
    assert Path(file).is_relative_to(bin_folder.parent)
    assert found == "True"


def test_the_demo_models_load(bin_folder, tmp_path):
    code = """
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_judge import JudgeHead
from vllm_judge.config import read_speculative_config
from vllm_judge.demo import trio

config, section = read_speculative_config(trio.JUDGE_JSON)
models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (trio.TARGET, config["model"])]
heads = [JudgeHead.from_pretrained(folder) for folder in (section.model, *trio.HEADS.values())]
print(json.dumps({
    "sizes": [model.config.hidden_size for model in models],
    "heads": [head.hidden_size for head in heads],
    "chat": AutoTokenizer.from_pretrained(trio.TARGET).chat_template is not None,
}))
"""
    found = json.loads(python(bin_folder, code, tmp_path).splitlines()[-1])
    assert set(found["heads"]) == {found["sizes"][0]}
    assert found["chat"]


def test_vllm_sees_the_plugin(bin_folder, tmp_path):
    code = """
from importlib.metadata import entry_points

plugin = entry_points(group="vllm.general_plugins")["judge"]
print(plugin.value, plugin.dist.locate_file(""), callable(plugin.load()))
"""
    value, folder, loaded = python(bin_folder, code, tmp_path).splitlines()[-1].split()
    assert value == "vllm_judge.engine.plugin:register"
    assert Path(folder).is_relative_to(bin_folder.parent)
    assert loaded == "True"


def test_the_command_prints_where_the_demo_models_are(bin_folder, tmp_path):
    folder = Path(run(bin_folder / "vllm-judge", "demo", "--path", cwd=tmp_path))
    assert folder.is_relative_to(bin_folder.parent)
    assert (folder / "judge.json").is_file()


def test_the_kernels_folder_hides_no_other_package():
    """From the checkout's root, where a folder `kernels` lies, transformers must load its models as anywhere."""
    code = "import vllm_judge.kernels.reference; from transformers import LlamaForCausalLM"
    run(sys.executable, "-c", code, cwd=ROOT)
