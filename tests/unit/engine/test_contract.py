"""The contract with vLLM holds on every version that scripts/check_vllm.py has looked at (tests/contract/); a change of
vLLM is found there and at start-up."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import vllm

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts"))
import check_vllm  # noqa: E402

from vllm_judge.engine.contract import V1, Sources  # noqa: E402

VERSIONS = {file.stem: json.loads(file.read_text()) for file in sorted(check_vllm.FOUND.glob("*.json"))}
INSTALLED = Path(vllm.__file__).parents[1]
pytestmark = pytest.mark.every_vllm


@pytest.mark.parametrize("version", VERSIONS)
def test_the_contract_and_all_imports_fit_what_was_found_in_each_version(version):
    problems = [problem for problem in check_vllm.mismatches(VERSIONS[version]).values() if problem]
    assert not problems, f"mend what does not fit, then run scripts/check_vllm.py {version} --save"


def test_what_was_found_is_what_the_installed_version_holds():
    assert check_vllm.look(Sources(INSTALLED)) == VERSIONS[vllm.__version__]


REJECTION_SAMPLER = "v1/sample/rejection_sampler.py"
CHANGES = {
    "a parameter of a function that is replaced": (
        REJECTION_SAMPLER,
        "    bonus_token_ids: torch.Tensor,\n    sampling_metadata",
        "    bonus_tokens: torch.Tensor,\n    sampling_metadata",
        "vllm.v1.sample.rejection_sampler:rejection_sample takes (",
    ),
    "a parameter of a private kernel that is launched": (
        "v1/worker/gpu/spec_decode/rejection_sampler_utils.py",
        "    rejected_step_ptr,",
        "    rejected_at_ptr,",
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils:_resample_kernel takes (",
    ),
    "the text of a kernel that is mirrored": (
        REJECTION_SAMPLER,
        "accepted = draft_prob > 0 and target_prob / draft_prob >= uniform_prob",
        "accepted = draft_prob > 0 and target_prob / draft_prob > uniform_prob",
        "vllm.v1.sample.rejection_sampler:rejection_random_sample_kernel is not the text that was read: ",
    ),
    "a field that is read": (
        "v1/spec_decode/metadata.py",
        "    target_logits_indices:",
        "    indices_of_target_logits:",
        "vllm.v1.spec_decode.metadata:SpecDecodeMetadata has no target_logits_indices",
    ),
    "a function that is imported": (
        "logger.py",
        "def init_logger(",
        "def make_logger(",
        "vllm.logger has no init_logger",
    ),
}


def changed(folder: Path, *changes: str) -> Path:
    """The installed vLLM by links, but for the files that a change is made in."""
    shutil.copytree(INSTALLED / "vllm", folder / "vllm", copy_function=lambda a, b: Path(b).symlink_to(a))
    for file, old, new, _ in map(CHANGES.get, changes):
        text = (folder / "vllm" / file).read_text()
        assert old in text
        (folder / "vllm" / file).unlink()
        (folder / "vllm" / file).write_text(text.replace(old, new))
    return folder


def test_every_change_that_is_made_on_purpose_is_found_and_nothing_besides(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "check_vllm.py"), str(changed(tmp_path, *CHANGES))]
    result = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "COLUMNS": "1000"})
    assert result.returncode == 1
    for *_, sentence in CHANGES.values():
        assert result.stdout.count(f" {sentence}") == 1
    assert result.stdout.strip().splitlines()[-1].startswith(f"{len(CHANGES)} of ")


def test_parameters_behind_the_known_ones_must_be_those_of_a_known_version():
    rejection_sample = next(e for e in V1 if e.target.endswith(":rejection_sample"))
    for version in VERSIONS.values():
        assert rejection_sample.mismatch(version[f"function {rejection_sample.target}"]) is None
    more = [*rejection_sample.parameters, "fly_window_size", "another"]
    assert rejection_sample.mismatch(more).endswith(f"and at most {rejection_sample.extras} behind them")


def test_a_verifier_that_has_changed_is_refused_when_the_configuration_is_made(tmp_path):
    """In a process of its own, which imports the changed vLLM."""
    tiny.make_draft(tiny.make_target(tmp_path / "target"), tmp_path / "draft")
    tiny.make_head(tmp_path / "judge", 0.0)
    change = "a parameter of a function that is replaced"
    site = changed(tmp_path / "site", change)
    program = f"""
import sys
sys.path.insert(0, {str(site)!r})
from vllm.engine.arg_utils import EngineArgs
arguments = dict(model={str(tmp_path / "target")!r}, dtype="float32", enforce_eager=True)
speculative = {{"method": "draft_model", "model": {str(tmp_path / "draft")!r}, "num_speculative_tokens": 4}}
EngineArgs(**arguments, speculative_config=speculative).create_engine_config()
try:
    speculative["judge"] = {{"model": {str(tmp_path / "judge")!r}}}
    EngineArgs(**arguments, speculative_config=speculative).create_engine_config()
except ValueError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    refusal = f"judge: this version of vllm-judge does not fit this vLLM: {CHANGES[change][-1]}"
    assert result.stdout.strip().splitlines()[-1].startswith(refusal)
