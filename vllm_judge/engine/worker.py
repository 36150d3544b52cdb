"""Hook of the worker: vLLM's verifier becomes the judge's when the model is loaded, and is checked when all is."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from vllm.logger import init_logger

from vllm_judge.config import JudgeConfig, judge_config
from vllm_judge.engine import drift
from vllm_judge.engine.judge import Judge
from vllm_judge.errors import JudgeConfigError

logger = init_logger("vllm.judge")


def init_worker(original: Callable[..., None], self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
    """Symptom: verification is strict. Why: vLLM makes its verifier inside load_model and offers no choice.
    How: after load_model the verifier's class is swapped for ours; after the warm-up, when a pass over dummy tokens is
    possible, what it will read is checked against the head. Until: vLLM takes a verifier from a plugin
    (RFC vllm-project/vllm#51212; #53895 lets a platform bring V2 components, the rejection sampler not among them)."""
    original(self, vllm_config, *args, **kwargs)
    config = judge_config(vllm_config.speculative_config)
    if config is None:
        return
    # Imported here: the plugin is loaded in processes that need none of it.
    from vllm.distributed.parallel_state import get_pp_group

    from vllm_judge.engine.output_layer import OutputLayer, check

    load_model, warm_up = self.load_model, self.compile_or_warm_up_model
    layer: OutputLayer | None = None  # of the last pipeline rank

    @functools.wraps(load_model)
    def load_model_and_judge(*args: Any, **kwargs: Any) -> Any:
        nonlocal layer
        result = load_model(*args, **kwargs)
        if get_pp_group().is_last_rank:
            layer = OutputLayer(self.model_runner.get_model())
            install_verifier(self.model_runner, vllm_config, config, layer)
        return result

    @functools.wraps(warm_up)
    def warm_up_and_check(*args: Any, **kwargs: Any) -> Any:
        result = warm_up(*args, **kwargs)
        if layer is not None:
            check(self.model_runner, layer)
        return result

    self.load_model, self.compile_or_warm_up_model = load_model_and_judge, warm_up_and_check


def install_verifier(runner: Any, vllm_config: Any, config: JudgeConfig, layer: Any) -> None:
    """Puts the judge into a worker's model runner.

    Args:
        layer: the output layer of the runner's model.

    Raises:
        JudgeConfigError: the runner's verifier is not vLLM's own.
    """
    # Imported here: V2's kernels need Triton, which a machine that runs V1 may lack.
    verifier = importlib.import_module(f"vllm_judge.engine.{'v2' if vllm_config.use_v2_model_runner else 'v1'}")
    found = type(runner.rejection_sampler)
    if found is not verifier.RejectionSampler:
        raise JudgeConfigError(
            f"judge needs vLLM's own verifier, found {found.__module__}.{found.__qualname__}: "
            "this model or platform brings one of its own, remove judge."
        )
    judge = Judge(config, vllm_config.model_config.get_vocab_size(), runner.device)
    verifier.install(runner, judge, layer)
    drift.follow(runner, judge)
    logger.info(
        "judge: %s verifies draft tokens, threshold %s, mode %s, share %s, scope %s, on drift %s.",
        *(config.model, config.threshold, config.mode, config.share, config.scope),
        "no guard" if config.scores is None else config.on_drift,
    )
