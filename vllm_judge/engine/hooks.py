"""Every place where vLLM is touched, with its reason and its end.

vLLM has no extension point for verification: its maintainers do not want lossy rules in vLLM itself. Each hook below
says what would go wrong without it (symptom), why vLLM is so (why), what is done (how) and when it can go (until).
Written against vLLM 0.32 and 0.33. `install` checks every hook's target first and installs all of them or none; where
vLLM has changed, a configuration with a judge is refused with the list of what does not fit, and vLLM without a judge
is left alone.
"""

import argparse
import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from vllm.logger import init_logger

from vllm_judge.config import SECTION, JudgeConfig, JudgeConfigError, read_speculative_config
from vllm_judge.engine import dial, metrics, support
from vllm_judge.engine.judge import MAX_STOP_TOKEN_IDS, Judge

logger = init_logger("vllm.judge")


def _owner(target: str) -> tuple[Any, str]:
    """The module or class that holds "module:Class.function", and the function's name in it."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    return functools.reduce(getattr, parents, importlib.import_module(module)), name


def mismatch(target: str, parameters: tuple[str, ...]) -> str | None:
    """What is not as expected of a function of vLLM; None if it is there and takes these parameters."""
    try:
        owner, name = _owner(target)
        function = getattr(owner, name)
    except (ImportError, AttributeError) as error:
        return f"{target} is gone ({error})"
    found = tuple(inspect.signature(function).parameters)
    return None if found == parameters else f"{target} takes {found}, expected {parameters}"


@dataclass(frozen=True)
class Hook:
    """A function of vLLM, its parameters, and what is put around it: around(original, *args, **kwargs)."""

    target: str
    parameters: tuple[str, ...]
    around: Callable[..., Any]

    def install(self) -> None:
        """Puts `around` in place, once."""
        owner, name = _owner(self.target)
        original = inspect.getattr_static(owner, name)
        static = isinstance(original, staticmethod)
        function = original.__func__ if static else original
        if hasattr(function, "_vllm_judge"):
            return

        @functools.wraps(function)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            return self.around(function, *args, **kwargs)

        hooked._vllm_judge = True  # type: ignore[attr-defined]
        setattr(owner, name, staticmethod(hooked) if static else hooked)


def add_cli_args(original: Callable[..., Any], parser: Any) -> Any:
    """Symptom: `--speculative-config judge.json` fails in the parser. Why: vLLM reads JSON text only.
    How: the argument's type also takes the path of a file. Until: vLLM takes paths."""
    parser = original(parser)
    for action in parser._actions:
        if action.dest == "speculative_config":
            action.type = functools.partial(_json_or_path, action.type)
            action.__class__ = _OnceIfPath
    return parser


def _json_or_path(parse_json: Callable[[str], Any], text: str) -> Any:
    if text.lstrip().startswith("{") or text == "None":
        return parse_json(text)
    try:
        read_speculative_config(text)
    except JudgeConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


class _OnceIfPath(argparse._StoreAction):
    """Symptom: `--speculative-config judge.json --speculative-config.model x` drops judge.json in silence. Why: vLLM
    turns dotted arguments into a second --speculative-config, which replaces the first. How: refused."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if isinstance(getattr(namespace, self.dest, None), str) and isinstance(values, dict):
            parser.error(
                f"argument {option_string}: the file {getattr(namespace, self.dest)} cannot be combined with "
                "--speculative-config.KEY: write the key into the file."
            )
        super().__call__(parser, namespace, values, option_string)


def create_engine_config(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """Symptom: the key `judge` and paths are refused. Why: SpeculativeConfig forbids unknown keys. How: the section is
    taken out of a copy, vLLM makes its config, the section is checked against it and attached to the speculative
    config, with which it reaches every process. It is no part of vLLM's compile hash and need not be: the judge sits
    behind the final hidden states. Until: vLLM carries plugins' sections in its config."""
    given = self.speculative_config
    if given is None:
        return original(self, *args, **kwargs)
    config, section = read_speculative_config(given)
    if section is not None and _problems:
        raise JudgeConfigError(f"judge: this version of vllm-judge does not fit this vLLM: {'; '.join(_problems)}.")
    self.speculative_config = config or None
    try:
        vllm_config = original(self, *args, **kwargs)
    except ValidationError as error:
        if section is None or error.title != "SpeculativeConfig":
            raise
        raise JudgeConfigError(_first_sentence(error)) from None
    finally:
        # The same arguments may be used again, and must then still name the judge.
        self.speculative_config = given
    if section is not None:
        judge = support.check(vllm_config, section)
        vllm_config.speculative_config.judge = judge
    return vllm_config


def _first_sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(["speculative_config", *map(str, first["loc"])])
    return f"{field}: {first['msg']}, found {first['input']!r}: correct it."


def judge_config(speculative_config: Any) -> JudgeConfig | None:
    """The judge that an engine was configured with."""
    return getattr(speculative_config, SECTION, None)


def validate_request(original: Callable[..., None], self: Any, speculative_config: Any) -> None:
    """Symptom: a malformed dial value would fail in the worker and take the engine down. Why: vLLM does not look into
    extra_args. How: it is read once at admission, and refused there (HTTP 400). Until: vLLM lets plugins validate."""
    from vllm.exceptions import VLLMValidationError

    original(self, speculative_config)
    config = judge_config(speculative_config)
    if config is None:
        return
    try:
        dial.request_threshold(self.extra_args, config.threshold)
    except dial.DialError as error:
        raise VLLMValidationError(str(error)) from None
    own_stops = self.all_stop_token_ids - set(config.protected_token_ids)
    if len(own_stops) > MAX_STOP_TOKEN_IDS:
        raise VLLMValidationError(
            f"a judged request may have at most {MAX_STOP_TOKEN_IDS} stop_token_ids, found {len(own_stops)}."
        )


def init_worker(original: Callable[..., None], self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
    """Symptom: verification is strict. Why: vLLM makes its verifier inside load_model and offers no choice.
    How: after load_model the verifier's class is swapped for ours. Until: vLLM takes a verifier from a plugin."""
    original(self, vllm_config, *args, **kwargs)
    config = judge_config(vllm_config.speculative_config)
    if config is None:
        return
    load_model = self.load_model

    @functools.wraps(load_model)
    def load_model_and_judge(*args: Any, **kwargs: Any) -> Any:
        result = load_model(*args, **kwargs)
        install_verifier(self.model_runner, vllm_config, config)
        return result

    self.load_model = load_model_and_judge


def install_verifier(runner: Any, vllm_config: Any, config: JudgeConfig) -> None:
    """Puts the judge into a worker's model runner.

    Raises:
        JudgeConfigError: the runner's verifier is not vLLM's own, or vLLM's verifier has changed.
    """
    from vllm.distributed import get_pp_group

    if not get_pp_group().is_last_rank:
        return
    # Imported here: V2's kernels need Triton, which a machine that runs V1 may lack.
    verifier = importlib.import_module(f"vllm_judge.engine.{'v2' if vllm_config.use_v2_model_runner else 'v1'}")
    found = type(runner.rejection_sampler)
    if found is not verifier.RejectionSampler:
        raise JudgeConfigError(
            f"judge needs vLLM's own verifier, found {found.__module__}.{found.__qualname__}: "
            "this model or platform brings one of its own, remove judge."
        )
    changed = [problem for expected in verifier.EXPECTED if (problem := mismatch(*expected))]
    if changed:
        raise JudgeConfigError(f"judge: this version of vllm-judge does not fit this vLLM: {'; '.join(changed)}.")
    judge = Judge(config, vllm_config.model_config.get_vocab_size(), runner.device)
    verifier.install(runner, judge)
    logger.info("judge: %s verifies draft tokens, threshold %s.", config.model, config.threshold)


def expand_batch_to_tokens(
    original: Callable[..., Any],
    x: Any,
    cu_num_tokens: Any,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> Any:
    """Symptom: on CPU, V1, temperature, top-k and top-p of speculative requests are uninitialised memory. Why: vLLM's
    stand-in for the kernel (cpu_triton_utils._expand_kernel_impl) casts to int64 and drops the result. How: the same in
    PyTorch, on CPU without Triton only, judge or not. Until: vLLM repairs it (unrepaired in 0.33)."""
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON

    if HAS_TRITON or not current_platform.is_cpu():
        return original(x, cu_num_tokens, num_tokens, replace_from, replace_to)
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    return x.masked_fill(x == replace_from, replace_to).repeat_interleave(counts, output_size=num_tokens)


def apply_sampling_constraints(original: Callable[..., Any], logits: Any, *args: Any, **kwargs: Any) -> Any:
    """Symptom: on CPU, V1, a request with top_k takes the engine down. Why: a step without drafts (a prefill) verifies
    zero rows, and vLLM's top-k takes their maximum. How: zero rows are returned as they are, judge or not. Until: vLLM
    repairs it (unrepaired in 0.33)."""
    return logits if len(logits) == 0 else original(logits, *args, **kwargs)


HOOKS = (
    Hook("vllm.engine.arg_utils:EngineArgs.add_cli_args", ("parser",), add_cli_args),
    Hook(
        "vllm.engine.arg_utils:EngineArgs.create_engine_config",
        ("self", "usage_context", "headless"),
        create_engine_config,
    ),
    Hook("vllm.sampling_params:SamplingParams._validate_spec_decode", ("self", "speculative_config"), validate_request),
    Hook(
        "vllm.v1.worker.worker_base:WorkerBase.__init__",
        ("self", "vllm_config", "local_rank", "rank", "distributed_init_method", "is_driver_worker"),
        init_worker,
    ),
    # The judge-only counter's way, see engine/metrics.py. Symptom: no counter. Why: vLLM's statistics are closed.
    Hook(
        "vllm.v1.core.sched.scheduler:Scheduler.update_from_output",
        ("self", "scheduler_output", "model_runner_output"),
        metrics.update_from_output,
    ),
    Hook(
        "vllm.v1.core.sched.scheduler:Scheduler.make_stats",
        (
            "self",
            "spec_decoding_stats",
            "kv_connector_stats",
            "cudagraph_stats",
            "perf_stats",
            "ec_connector_stats",
        ),
        metrics.make_stats,
    ),
    Hook(
        "vllm.v1.spec_decode.metrics:SpecDecodingProm.__init__",
        ("self", "speculative_config", "labelnames", "per_engine_labelvalues", "is_diffusion"),
        metrics.init_prometheus,
    ),
    Hook(
        "vllm.v1.spec_decode.metrics:SpecDecodingProm.observe",
        ("self", "spec_decoding_stats", "engine_idx"),
        metrics.observe,
    ),
    Hook(
        "vllm.v1.sample.rejection_sampler:expand_batch_to_tokens",
        ("x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to"),
        expand_batch_to_tokens,
    ),
    Hook(
        "vllm.v1.sample.rejection_sampler:apply_sampling_constraints",
        ("logits", "cu_num_draft_tokens", "sampling_metadata"),
        apply_sampling_constraints,
    ),
)
# The hook without which a judge could not even be refused; vLLM's own check of keys refuses it where this one is gone.
CONFIG_HOOK = HOOKS[1]

_problems: list[str] = []
_installed = False


def install() -> None:
    """Installs all hooks in this process, once. Where one does not fit, none is installed but the configuration's,
    which then refuses a judge; engines without a judge go on as ever."""
    global _installed
    if _installed:
        return
    _installed = True
    _problems.extend(problem for hook in HOOKS if (problem := mismatch(hook.target, hook.parameters)))
    if _problems:
        logger.warning("judge: inactive, this vLLM is not the expected one: %s.", "; ".join(_problems))
        if mismatch(CONFIG_HOOK.target, CONFIG_HOOK.parameters) is None:
            CONFIG_HOOK.install()
        return
    metrics.extend_stats()
    for hook in HOOKS:
        hook.install()
