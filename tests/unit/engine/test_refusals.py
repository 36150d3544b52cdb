"""Each wrong configuration is refused in one sentence before an engine starts: field, what was found, what to do."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.worker.worker_base import WorkerBase

from vllm_judge import JudgeHead
from vllm_judge.engine import hooks
from vllm_judge.errors import JudgeConfigError


@pytest.fixture(scope="module", autouse=True)
def plugin():
    hooks.install()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny.make_draft(tiny.make_target(root / "target"), root / "draft")
    tiny.make_head(root / "judge", 0.0)
    return root


def engine_config(models: Path, judge: Any, speculative: dict[str, Any] | None = None, **options: Any) -> Any:
    config = {"method": "draft_model", "model": str(models / "draft"), "num_speculative_tokens": 4}
    config = {**(config if speculative is None else speculative), "judge": judge}
    args = {"model": str(models / "target"), "dtype": "float32", "enforce_eager": True, "speculative_config": config}
    return EngineArgs(**{**args, **options}).create_engine_config()


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(JudgeConfigError) as caught:
        engine_config(*args, **kwargs)
    return str(caught.value)


def head(models: Path) -> dict[str, Any]:
    return {"model": str(models / "judge")}


def test_a_good_configuration_is_attached_and_survives_the_way_to_a_worker(models):
    vllm_config = engine_config(models, {**head(models), "threshold": 0.7})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        assert not worker.submit(is_hooked).result()
        judge = worker.submit(attrgetter("speculative_config.judge"), vllm_config).result()
        assert worker.submit(is_hooked).result()
    assert judge.threshold == 0.7
    assert judge.protected_token_ids == (0, tiny.EOS, tiny.SPECIAL)


def is_hooked() -> bool:
    return hasattr(WorkerBase.__init__, "_vllm_judge")


def test_a_file_names_its_models_relative_to_itself(models):
    config = {"method": "draft_model", "model": "draft", "num_speculative_tokens": 4, "judge": {"model": "judge"}}
    (models / "judge.json").write_text(json.dumps(config))
    args = EngineArgs(model=str(models / "target"), dtype="float32", speculative_config=str(models / "judge.json"))
    for _ in range(2):  # the same arguments again still name the judge
        assert args.create_engine_config().speculative_config.judge.model == str(models / "judge")


def test_an_unknown_key_is_refused(models):
    assert refusal(models, {**head(models), "treshold": 0.5}) == (
        "judge.treshold in speculative_config is unknown: the keys of judge are model, revision, threshold."
    )


def test_an_unknown_key_of_vllms_own_is_refused_in_a_sentence(models):
    assert refusal(models, head(models), {"method": "ngram", "num_speculative_tokens": 4, "metod": 1}) == (
        "speculative_config.metod: Unexpected keyword argument, found 1: correct it."
    )


@pytest.mark.parametrize("threshold", [1.5, -0.1, "0.5", True, float("nan")])
def test_a_wrong_threshold_is_refused(models, threshold):
    assert refusal(models, {**head(models), "threshold": threshold}) == (
        f"judge.threshold in speculative_config must be a number from 0 to 1, found {threshold!r}."
    )


def test_a_section_that_is_no_object_is_refused(models):
    assert refusal(models, "judge") == (
        'judge in speculative_config must be an object such as {"model": "path/to/head"}, found \'judge\'.'
    )


def test_a_section_without_a_head_is_refused(models):
    assert refusal(models, {}) == (
        "judge.model in speculative_config is missing: give the folder or Hub repository of the judge head."
    )


def test_a_missing_head_is_refused(models):
    assert refusal(models, {"model": "./nowhere"}).startswith(
        "judge.model is './nowhere', which is neither a folder with a judge head "
        "nor a Hub repository that can be read: "
    )


def test_a_folder_without_weights_is_refused(models):
    assert refusal(models, {"model": str(models)}) == (
        f"judge.model: no judge head in {models}: it holds no model.safetensors."
    )


@pytest.fixture
def broken(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "judge", tmp_path / "broken"))


def test_a_damaged_head_is_refused(models, broken):
    (broken / "model.safetensors").write_bytes(b"not a tensor in sight")
    assert refusal(models, {"model": str(broken)}).startswith(
        f"judge.model: the judge head in {broken} is damaged: model.safetensors: "
    )


def test_a_head_whose_weights_do_not_fit_its_config_is_refused(models, broken):
    save_file({"weight": torch.zeros(tiny.HIDDEN + 1), "bias": torch.zeros(())}, broken / "model.safetensors")
    assert refusal(models, {"model": str(broken)}) == (
        f"judge.model: the judge head in {broken} does not match its config.json: expected "
        "{'bias': (), 'weight': (64,)}, found {'bias': (), 'weight': (65,)}."
    )


def test_a_head_that_is_not_finite_is_refused(models, broken):
    save_file({"weight": torch.full((tiny.HIDDEN,), torch.nan), "bias": torch.zeros(())}, broken / "model.safetensors")
    assert refusal(models, {"model": str(broken)}) == (
        f"judge.model: the judge head in {broken} holds weights that are not finite."
    )


def test_a_head_of_another_hidden_size_is_refused(models, tmp_path):
    JudgeHead(96, target_model="another").save_pretrained(tmp_path / "other")
    assert refusal(models, {"model": str(tmp_path / "other")}) == (
        f"judge.model {tmp_path / 'other'} was trained for hidden size 96, but the target's is 64: "
        "use a head trained on this target (this one was trained on another)."
    )


def test_a_judge_without_a_drafter_is_refused(models):
    assert refusal(models, head(models), {}) == (
        "judge needs a drafter, and speculative_config names none: "
        "add method, model and num_speculative_tokens beside judge."
    )


def test_another_rejection_sample_method_is_refused(models):
    speculative = {"method": "ngram", "num_speculative_tokens": 4, "rejection_sample_method": "synthetic"}
    speculative["synthetic_acceptance_length"] = 2.0
    assert refusal(models, head(models), speculative) == (
        "judge needs rejection_sample_method 'standard', found 'synthetic': remove one of the two."
    )


def test_the_method_that_drafts_nothing_is_refused(models):
    speculative = {"method": "extract_hidden_states", "num_speculative_tokens": 1}
    speculative["draft_model_config"] = {"hf_config": {"eagle_aux_hidden_state_layer_ids": [1]}}
    assert refusal(models, head(models), speculative) == (
        "judge cannot be used with method 'extract_hidden_states', which drafts nothing: use a drafting method."
    )


def test_a_pooling_model_is_refused(models):
    assert refusal(models, head(models), {}, runner="pooling") == (
        "judge needs a model that generates text, found runner 'pooling': remove judge."
    )


def test_elastic_expert_parallelism_is_refused(models):
    vllm_config = engine_config(models, head(models))
    vllm_config.parallel_config.enable_elastic_ep = True
    assert first_refusal(vllm_config) == (
        "judge cannot be used with enable_elastic_ep, which loads workers past the judge: remove one of the two."
    )


def test_watermarking_is_refused(models):
    vllm_config = engine_config(models, head(models))
    vllm_config.watermark_config = object()
    assert first_refusal(vllm_config) == (
        "judge cannot be used with watermarking, whose key decides what is accepted: remove one of the two."
    )


def test_an_external_launcher_with_pipeline_stages_is_refused_on_v1(models, monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    vllm_config = engine_config(models, head(models))
    vllm_config.parallel_config.distributed_executor_backend = "external_launcher"
    vllm_config.parallel_config.pipeline_parallel_size = 2
    assert first_refusal(vllm_config) == (
        "judge cannot be used with distributed_executor_backend 'external_launcher' and pipeline_parallel_size 2 "
        "on model runner V1: use pipeline_parallel_size 1."
    )


def test_a_diffusion_model_is_refused(models):
    vllm_config = engine_config(models, head(models))
    vllm_config.model_config.__dict__["is_diffusion"] = True
    assert first_refusal(vllm_config) == (
        "judge cannot be used with a diffusion model, which has no draft tokens to verify: remove judge."
    )


def first_refusal(vllm_config: Any) -> str:
    """For what this machine cannot configure for real: vLLM's own config object with that one field changed."""
    from vllm_judge.engine import support

    return next(iter(support.refusals(vllm_config)))


def parse(*arguments: str) -> Any:
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    return parser.parse_args(list(arguments))


def test_the_command_line_takes_a_path_or_json(models):
    (models / "judge.json").write_text("{}")
    assert parse("--speculative-config", str(models / "judge.json")).speculative_config == str(models / "judge.json")
    assert parse("--speculative-config", '{"method": "ngram"}').speculative_config == {"method": "ngram"}
    assert parse("--speculative-config.method", "ngram").speculative_config == {"method": "ngram"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            None,
            "speculative_config names the file {path}, which does not exist: give a JSON file's path, or JSON text.",
        ),
        ("{", "{path} is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ("[]", "{path} must hold a JSON object, found list."),
        (
            '{"judge": {"modle": "x"}}',
            "judge.modle in {path} is unknown: the keys of judge are model, revision, threshold.",
        ),
    ],
)
def test_a_bad_file_is_refused_by_the_command_line(tmp_path, capsys, content, sentence):
    path = tmp_path / "judge.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit):
        parse("--speculative-config", str(path))
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("argument --speculative-config/-sc: " + sentence.replace("{path}", str(path)))


def test_a_path_with_a_dotted_override_is_refused_instead_of_dropped(models, capsys):
    (models / "judge.json").write_text("{}")
    with pytest.raises(SystemExit):
        parse("--speculative-config", str(models / "judge.json"), "--speculative-config.num_speculative_tokens", "4")
    assert "write the key into the file." in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_hook_that_no_longer_fits_refuses_the_judge_and_leaves_other_engines_alone(models):
    """In a process of its own: vLLM with a changed method, as a later version might have it."""
    program = f"""
import vllm.v1.core.sched.scheduler as scheduler
scheduler.Scheduler.make_stats = lambda self, everything: None
from vllm.engine.arg_utils import EngineArgs
from vllm_judge.engine import hooks
hooks.install()
speculative = {{"method": "draft_model", "model": {str(models / "draft")!r}, "num_speculative_tokens": 4}}
arguments = dict(model={str(models / "target")!r}, dtype="float32", enforce_eager=True)
assert EngineArgs(**arguments, speculative_config=speculative).create_engine_config().speculative_config is not None
try:
    speculative["judge"] = {{"model": {str(models / "judge")!r}}}
    EngineArgs(**arguments, speculative_config=speculative).create_engine_config()
except ValueError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == (
        "judge: this version of vllm-judge does not fit this vLLM: vllm.v1.core.sched.scheduler:Scheduler.make_stats "
        "takes ('self', 'everything'), expected ('self', 'spec_decoding_stats', 'kv_connector_stats', "
        "'cudagraph_stats', 'perf_stats', 'ec_connector_stats')."
    )
