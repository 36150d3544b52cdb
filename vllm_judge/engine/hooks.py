"""The register of hooks: every function of vLLM that is wrapped, and what is put around it.

vLLM verifies drafts strictly, and from 0.33 on by one lossy rule besides (FLy, `rejection_sample_method="fly"`,
vllm-project/vllm#53987), with no way to add another. Each `around` says in its docstring what would go wrong without
it (symptom), why vLLM is so (why), what is done (how), and when it can go, with the issue upstream where there is one
(until). `install` checks every target against the contract first and installs all hooks or none; where vLLM has
changed, a configuration with a judge is refused with the list of what does not fit, and other engines are left alone.
"""

import copyreg
import dataclasses
from typing import Any

from vllm.logger import init_logger

from vllm_judge.config import JudgeConfig
from vllm_judge.engine import (
    admission,
    command_line,
    configuration,
    cpu_repairs,
    drift,
    gauges,
    metrics,
    request_metrics,
    worker,
)
from vllm_judge.engine.hook import Hook

logger = init_logger("vllm.judge")

# The hook without which a judge could not even be refused; vLLM's own check of keys refuses it where this one is gone.
CONFIG_HOOK = Hook("vllm.engine.arg_utils:EngineArgs.create_engine_config", configuration.create_engine_config)
HOOKS = (
    Hook("vllm.engine.arg_utils:EngineArgs.add_cli_args", command_line.add_cli_args),
    CONFIG_HOOK,
    Hook("vllm.sampling_params:SamplingParams._validate_spec_decode", admission.validate_request),
    Hook("vllm.v1.engine.core:EngineCore.preprocess_add_request", admission.preprocess_add_request),
    Hook("vllm.v1.worker.worker_base:WorkerBase.__init__", worker.init_worker),
    # The counters' way, see metrics.py. Symptom: no counters. Why: vLLM's statistics are closed, and a plugin for
    # loggers of them (vllm-project/vllm#22456) sees no others. How: one field more, carried all the way. Until: a
    # worker can add statistics of its own (no issue upstream; #34161, for requests, was closed).
    Hook("vllm.v1.core.sched.scheduler:Scheduler.update_from_output", metrics.update_from_output),
    Hook("vllm.v1.core.sched.scheduler:Scheduler.make_spec_decoding_stats", metrics.make_spec_decoding_stats),
    Hook("vllm.v1.spec_decode.metrics:SpecDecodingProm.__init__", metrics.init_prometheus),
    Hook("vllm.v1.spec_decode.metrics:SpecDecodingProm.observe", metrics.observe),
    Hook("vllm.v1.metrics.loggers:PrometheusStatLogger.log_engine_initialized", gauges.log_engine_initialized),
    Hook("vllm.v1.core.sched.scheduler:Scheduler.schedule", drift.schedule),
    Hook("vllm.v1.core.sched.scheduler:Scheduler._update_request_with_output", request_metrics.update_request),
    Hook("vllm.v1.metrics.stats:RequestSpecDecodeMetrics.to_dict", request_metrics.to_dict),
    Hook("vllm.v1.sample.rejection_sampler:expand_batch_to_tokens", cpu_repairs.expand_batch_to_tokens),
    Hook("vllm.v1.sample.rejection_sampler:apply_sampling_constraints", cpu_repairs.apply_sampling_constraints),
)

_installed = False


def install() -> None:
    """Installs all hooks in this process, once. Where one does not fit, none is installed but the configuration's,
    which then refuses a judge; engines without a judge go on as ever."""
    global _installed
    if _installed:
        return
    _installed = True
    problems = [problem for hook in HOOKS if (problem := hook.mismatch())]
    if problems:
        logger.warning("judge: inactive, this vLLM is not the expected one: %s.", "; ".join(problems))
        if CONFIG_HOOK.mismatch() is None:
            CONFIG_HOOK.install()
        return
    metrics.extend_stats()
    request_metrics.extend_request_metrics()
    for hook in HOOKS:
        hook.install()


def _arrive(*fields: Any) -> JudgeConfig:
    install()
    return JudgeConfig(*fields)


def _depart(config: JudgeConfig) -> tuple[Any, ...]:
    return _arrive, tuple(getattr(config, field.name) for field in dataclasses.fields(config))


# A judge is pickled on its way to another process, and unpickled there by `_arrive`: no process can hold a judge
# without having the hooks.
copyreg.pickle(JudgeConfig, _depart)
