"""Each wrong configuration is refused in one sentence before an engine starts: field, what was found, what to do."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from architectures import make_architecture
from safetensors.torch import save_file
from transformers import Qwen3VLConfig
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.worker.worker_base import WorkerBase

from vllm_judge import JudgeHead
from vllm_judge.config import JudgeSection
from vllm_judge.engine import hooks, support
from vllm_judge.errors import JudgeConfigError
from vllm_judge.head import fingerprint

pytestmark = pytest.mark.every_vllm


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
        "judge.treshold in speculative_config is unknown: the keys of judge are model, revision, threshold, "
        "mode, share, scope, on_drift."
    )


def test_an_unknown_key_of_vllms_own_is_refused_in_a_sentence(models):
    assert refusal(models, head(models), {"method": "ngram", "num_speculative_tokens": 4, "metod": 1}) == (
        "speculative_config.metod: Unexpected keyword argument, found 1: correct it."
    )


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("mode", "shade", "judge.mode in speculative_config must be 'judge' or 'shadow', found 'shade'."),
        ("scope", [1], "judge.scope in speculative_config must be 'everywhere' or 'thinking', found [1]."),
        ("on_drift", "stop", "judge.on_drift in speculative_config must be 'warn' or 'strict', found 'stop'."),
        (
            "on_drift",
            "strict",
            "judge.on_drift 'strict' compares live scores with those of the calibration at threshold 0.5, and {head} "
            "carries none: run `vllm-judge calibrate` on it, or remove judge.on_drift.",
        ),
        ("share", 5, "judge.share in speculative_config must be a number from 0 to 1, found 5."),
        (
            "scope",
            "thinking",
            "judge.scope 'thinking' needs to know what begins and ends reasoning, and vLLM was not told: add "
            "--reasoning-parser or --reasoning-config, or remove judge.scope.",
        ),
    ],
)
def test_a_wrong_mode_scope_or_share_is_refused(models, key, value, sentence):
    assert refusal(models, {**head(models), key: value}) == sentence.replace("{head}", str(models / "judge"))


def test_scores_of_another_threshold_guard_nothing_and_those_of_another_head_are_refused(models, tmp_path):
    own = JudgeHead.from_pretrained(tiny.make_head(tmp_path / "plain", 0.0))
    scores = {"head": fingerprint(own), "threshold": 0.5, "answers": 99, "shares": [0.05] * 20, "variance": 0.1}
    own.with_config(scores=scores).save_pretrained(tmp_path / "judge")
    section = {"model": str(tmp_path / "judge"), "on_drift": "strict"}
    guarded = engine_config(models, section).speculative_config.judge
    assert guarded.scores.answers == 99 and guarded.on_drift == "strict"
    assert engine_config(models, {"model": section["model"], "threshold": 0.7}).speculative_config.judge.scores is None
    assert refusal(models, {**section, "threshold": 0.7}) == (
        "judge.on_drift 'strict' compares live scores with those of the calibration at threshold 0.7, and "
        f"{tmp_path / 'judge'} carries those of threshold 0.5: run `vllm-judge calibrate` on it, or remove "
        "judge.on_drift."
    )
    tiny.make_head(tmp_path / "other", 1.0)
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "judge")
    assert refusal(models, {"model": section["model"]}) == (
        f"judge.model {tmp_path / 'judge'} carries the scores of another head, its weights have changed since: run "
        "`vllm-judge calibrate` on it, or remove scores from its config.json."
    )


def test_a_share_of_nothing_is_refused(models):
    assert refusal(models, {**head(models), "mode": "shadow", "share": 0.5}) == (
        "judge.share in speculative_config says which requests are judged, and mode 'shadow' judges none: "
        "remove one of the two."
    )


def test_what_begins_and_ends_reasoning_is_vllms_own(models):
    judge = engine_config(
        models,
        {**head(models), "scope": "thinking", "share": 0.5},
        reasoning_config={"reasoning_start_str": "w10 w12", "reasoning_end_str": "w11"},
    ).speculative_config.judge
    assert (judge.mode, judge.share, judge.scope, judge.thinking) == ("judge", 0.5, "thinking", ((10, 12), (11,)))


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
        "judge.model: './nowhere' is neither a folder with a judge head nor a Hub repository that can be read: "
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
        f"judge.model: the judge head in {broken} holds weights that are not finite in fp32."
    )


def test_a_head_of_another_hidden_size_is_refused(models, tmp_path):
    JudgeHead(96, target_model="another").save_pretrained(tmp_path / "other")
    assert refusal(models, {"model": str(tmp_path / "other")}) == (
        f"judge.model {tmp_path / 'other'} was trained for hidden size 96, but the target's is 64: "
        "use a head trained on this target (this one was trained on another)."
    )


def test_a_head_is_as_wide_as_what_the_output_layer_reads(models, tmp_path):
    target = make_architecture("opt_projected", tmp_path / "target")
    assert "was trained for hidden size 64, but the target's is 32:" in refusal(models, head(models), model=str(target))
    JudgeHead(32).save_pretrained(tmp_path / "head")
    engine_config(models, {"model": str(tmp_path / "head")}, model=str(target))


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


def test_pipeline_stages_are_refused_where_vllm_cannot_draft_on_them(models, monkeypatch):
    assert refusal(models, head(models), pipeline_parallel_size=2) == (
        "judge cannot be used with pipeline_parallel_size 2 on model runner V1, whose first stages fail for want of a "
        "drafter: use pipeline_parallel_size 1."
    )
    vllm_config = engine_config(models, head(models))
    vllm_config.parallel_config.pipeline_parallel_size = 2
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert first_refusal(vllm_config) == (
        "judge cannot be used with pipeline_parallel_size 2 and method 'draft_model', which vLLM cannot run on several "
        "stages: use pipeline_parallel_size 1."
    )


def test_sampling_masks_are_refused(models):
    vllm_config = engine_config(models, head(models))
    vllm_config.model_config.return_sampling_mask = True
    assert first_refusal(vllm_config) == (
        "judge cannot be used with return_sampling_mask, since a token that only the judge accepts may lie outside the "
        "mask that is returned: remove one of the two."
    )


@pytest.mark.parametrize(
    ("draft", "change", "reason"),
    [
        ("nowhere", None, "Invalid repository ID or local directory specified: '{path}'."),
        ("other", {"architectures": ["Other"]}, "Model architectures ['Other'] are not supported for now."),
        (
            "unknown",
            {"model_type": "unknown"},
            "The checkpoint you are trying to load has model type `unknown` but Transformers does not recognize this "
            "architecture.",
        ),
    ],
)
def test_a_draft_model_that_vllm_cannot_load_is_refused_in_a_sentence(models, tmp_path, draft, change, reason):
    path = tmp_path / draft
    if change is not None:
        shutil.copytree(models / "draft", path)
        (path / "config.json").write_text(json.dumps({**json.loads((path / "config.json").read_text()), **change}))
    sentence = refusal(models, head(models), {"method": "draft_model", "model": str(path), "num_speculative_tokens": 4})
    beginning = f"speculative_config.model is '{path}', which vLLM cannot load as a draft model: "
    assert sentence.startswith(beginning + reason.replace("{path}", str(path)))
    assert "\n" not in sentence and len(sentence) < 500


def test_a_speculative_config_that_vllm_refuses_as_a_whole_is_refused_in_a_sentence(models):
    speculative = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 5, "prompt_lookup_max": 2}
    assert refusal(models, head(models), speculative) == (
        "speculative_config: prompt_lookup_min=5 must be <= prompt_lookup_max=2."
    )


@pytest.mark.parametrize(("own", "outer"), [(None, 5), (5, None), (None, None), ([5, 6], 7)])
def test_end_of_sequence_tokens_are_found_in_a_multimodal_models_configs(own, outer):
    """Qwen3-VL's text config has no eos_token_id of its own; some checkpoints name one outside of it, some nowhere."""
    config = Qwen3VLConfig()
    assert not hasattr(config.get_text_config(), "eos_token_id")
    for part, eos in ((config.get_text_config(), own), (config, outer)):
        if eos is not None:
            part.eos_token_id = eos
    model_config = SimpleNamespace(
        hf_config=config,
        hf_text_config=config.get_text_config(),
        try_get_generation_config=dict,
        skip_tokenizer_init=True,
    )
    expected = {token for eos in (own, outer) if eos is not None for token in ([eos] if isinstance(eos, int) else eos)}
    assert support.protected_token_ids(model_config) == tuple(sorted(expected))


def test_a_diffusion_model_is_refused(models):
    vllm_config = engine_config(models, head(models))
    vllm_config.model_config.__dict__["is_diffusion"] = True
    assert first_refusal(vllm_config) == (
        "judge cannot be used with a diffusion model, which has no draft tokens to verify: remove judge."
    )


def first_refusal(vllm_config: Any) -> str:
    """For what this machine cannot configure for real: vLLM's own config object with that one field changed."""
    return next(iter(support.refusals(vllm_config, JudgeSection(model="head"))))


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
            "speculative_config names {path}, which is no file or folder and cannot be a Hub repository (owner/name): "
            "give a head's folder or repository with a judge.json, a JSON file, or JSON text.",
        ),
        ("{", "{path} is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ("[]", "{path} must hold a JSON object, found list."),
        (
            '{"judge": {"modle": "x"}}',
            "judge.modle in {path} is unknown: the keys of judge are model, revision, threshold, mode, share, scope, "
            "on_drift.",
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
scheduler.Scheduler.make_spec_decoding_stats = lambda self, everything: None
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
        "judge: this version of vllm-judge does not fit this vLLM: "
        "vllm.v1.core.sched.scheduler:Scheduler.make_spec_decoding_stats takes ('self', 'everything'), expected "
        "('self', 'spec_decoding_stats', 'num_draft_tokens', 'num_accepted_tokens', 'num_invalid_spec_tokens', "
        "'request_id')."
    )
