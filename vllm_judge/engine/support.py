"""What judged decoding cannot be combined with, refused when the engine's configuration is made."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm import envs
from vllm.logger import init_logger

from vllm_judge import output_layer
from vllm_judge.config import THINKING, JudgeConfig, JudgeSection, calibrated_scores, load_head
from vllm_judge.engine.metrics import JUDGE_ONLY_TOKENS
from vllm_judge.errors import JudgeConfigError
from vllm_judge.head import JudgeHead, fingerprint
from vllm_judge.special_tokens import special_token_ids

logger = init_logger("vllm.judge")


def check(vllm_config: Any, section: JudgeSection) -> JudgeConfig:
    """Checks a judge section against the engine that it is to run in.

    Args:
        vllm_config: vLLM's finished VllmConfig.
        section: the judge section of its speculative config.

    Returns:
        The judge as the workers need it.

    Raises:
        JudgeConfigError: the combination is not supported, or the head does not fit; one sentence.
    """
    for refused in refusals(vllm_config, section):
        raise JudgeConfigError(refused)
    head = head_for(vllm_config, section)
    for doubt in doubts(vllm_config, head):
        logger.warning("judge: %s", doubt)
    return JudgeConfig(
        model=head.source,
        revision=head.commit,
        threshold=threshold(section, head),
        protected_token_ids=protected_token_ids(vllm_config.model_config),
        fingerprint=fingerprint(head),
        mode=section.mode,
        share=1.0 if section.share is None else section.share,
        scope=section.scope,
        thinking=thinking(vllm_config.reasoning_config),
        scores=calibrated_scores(section, head),
        on_drift=section.on_drift,
    )


def head_for(vllm_config: Any, section: JudgeSection) -> JudgeHead:
    """The head that a section names, if it fits the target; raises JudgeConfigError where it does not."""
    return load_head(section, output_layer.width(vllm_config.model_config.hf_text_config))


def threshold(section: JudgeSection, head: JudgeHead) -> float:
    """The engine's default threshold: the section's, or else the head's own."""
    return head.threshold if section.threshold is None else section.threshold


def thinking(reasoning_config: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The tokens that begin and end reasoning; the end as a model writes it, where vLLM forces a longer one."""
    if reasoning_config is None or not reasoning_config.enabled:
        return None
    start, end = reasoning_config.reasoning_start_token_ids, reasoning_config.natural_reasoning_end_token_ids
    return tuple(start), tuple(end)


def refusals(vllm_config: Any, section: JudgeSection) -> Iterator[str]:
    """Every reason, one sentence each, why this engine cannot have this judge."""
    speculative, parallel, model = vllm_config.speculative_config, vllm_config.parallel_config, vllm_config.model_config
    if model.runner_type != "generate":
        yield f"judge needs a model that generates text, found runner {model.runner_type!r}: remove judge."
    if speculative is None:
        yield (
            "judge needs a drafter, and speculative_config names none: "
            "add method, model and num_speculative_tokens beside judge."
        )
        return
    if model.is_diffusion:
        yield "judge cannot be used with a diffusion model, which has no draft tokens to verify: remove judge."
    if speculative.method == "extract_hidden_states":
        yield "judge cannot be used with method 'extract_hidden_states', which drafts nothing: use a drafting method."
    if speculative.rejection_sample_method != "standard":
        yield (
            f"judge needs rejection_sample_method 'standard', found {speculative.rejection_sample_method!r}: "
            "remove one of the two."
        )
    if vllm_config.watermark_config is not None:
        yield "judge cannot be used with watermarking, whose key decides what is accepted: remove one of the two."
    if parallel.enable_elastic_ep:
        yield "judge cannot be used with enable_elastic_ep, which loads workers past the judge: remove one of the two."
    if model.return_sampling_mask:
        yield (
            "judge cannot be used with return_sampling_mask, since a token that only the judge accepts may lie outside "
            "the mask that is returned: remove one of the two."
        )
    if section.scope == THINKING and thinking(vllm_config.reasoning_config) is None:
        yield (
            f"judge.scope {THINKING!r} needs to know what begins and ends reasoning, and vLLM was not told: add "
            "--reasoning-parser or --reasoning-config, or remove judge.scope."
        )
    # vLLM itself fails on these, at load or at the first request (vllm-project/vllm#30436, #53575).
    stages = parallel.pipeline_parallel_size
    if stages > 1 and not vllm_config.use_v2_model_runner:
        yield (
            f"judge cannot be used with pipeline_parallel_size {stages} on model runner V1, whose first stages fail "
            "for want of a drafter: use pipeline_parallel_size 1."
        )
    elif stages > 1 and speculative.method in ("draft_model", "ngram", "ngram_gpu"):
        yield (
            f"judge cannot be used with pipeline_parallel_size {stages} and method {speculative.method!r}, which vLLM "
            "cannot run on several stages: use pipeline_parallel_size 1."
        )


def doubts(vllm_config: Any, head: JudgeHead) -> Iterator[str]:
    """What a user should know of this engine and this head, one sentence each."""
    if vllm_config.lora_config is not None:
        yield "LoRA is on, and the judge head was trained on the base model; measure its quality anew."
    target = vllm_config.model_config.model
    if head.target_model and _name(head.target_model) != _name(target):
        yield (
            f"the head in {head.source} was trained on {head.target_model}, and the target is {target}: "
            "use a head of this target, or measure the quality of this one."
        )
    if envs.VLLM_USE_RUST_FRONTEND:
        yield (
            f"the Rust front end's /metrics does not show {JUDGE_ONLY_TOKENS}; "
            "set VLLM_USE_RUST_FRONTEND=0 where it is needed."
        )


def _name(model: str) -> str:
    """What a model is called, wherever it lies: the last part of a repository's or folder's name."""
    path = Path(model).resolve() if os.path.isdir(model) else Path(model)
    if path.parent.name == "snapshots":  # the Hub's cache: models--owner--name/snapshots/commit
        return path.parent.parent.name.rpartition("--")[2].casefold()
    return path.name.casefold()


def protected_token_ids(model_config: Any) -> tuple[int, ...]:
    """End-of-sequence and special tokens: the judge never accepts them."""
    protected: set[int] = set()
    generation_config = model_config.try_get_generation_config() or {}
    # A text config may lack the attribute, and the config around it may hold it (Qwen3-VL, GLM-4V).
    configs = (model_config.hf_text_config, model_config.hf_config)
    for eos in (*(getattr(c, "eos_token_id", None) for c in configs), generation_config.get("eos_token_id")):
        protected |= {eos} if isinstance(eos, int) else set(eos or ())
    if not model_config.skip_tokenizer_init:
        from vllm.tokenizers import cached_tokenizer_from_config

        protected |= special_token_ids(cached_tokenizer_from_config(model_config))
    return tuple(sorted(protected))
