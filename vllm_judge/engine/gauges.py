"""What an engine's judge is and how its scores stand, as gauges of /metrics and `llm.get_metrics()`."""

from collections.abc import Callable
from typing import Any

from vllm_judge.config import MODES, judge_config
from vllm_judge.engine.drift import Filled

INFO = "vllm:judge_info"
INFO_DESCRIPTION = "A judge that is configured: 1. What this engine answers may not be the target's own text."
INFO_LABELS = ("head", "threshold", "scope", "mode", "share", "on_drift")
# Where the head carries the scores of its calibration: gauges, their labels beside vLLM's own, and what they say.
DRIFT, LIMIT, STOPPED = "vllm:judge_drift", "vllm:judge_drift_limit", "vllm:judge_stopped"
GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    DRIFT: (
        ("mode",),
        "Distance of the judge's scores in the last full window of answers from those of the head's calibration; 0 "
        "before the first one.",
    ),
    LIMIT: ((), "The distance beyond which a window has drifted."),
    STOPPED: ((), "1: the scores have drifted, and this engine decodes strictly until it is restarted."),
}


def log_engine_initialized(original: Callable[..., None], self: Any) -> None:
    """Around PrometheusStatLogger.log_engine_initialized, which says how an engine's cache is configured: says it of
    its judge too, in Prometheus's manner, as the labels of a gauge that is 1. Symptom: who needs exact samples cannot
    ask an engine whether it gives them. Why: vLLM's speculative configuration is no metric. How: one gauge more, and
    three where there is a drift guard. Until: vLLM shows it (no issue upstream)."""
    original(self)
    judge = judge_config(self.vllm_config.speculative_config)
    if judge is None:
        return
    on_drift = "none" if judge.scores is None else judge.on_drift
    values = (judge.model, str(judge.threshold), judge.scope, judge.mode, str(judge.share), on_drift)
    info = self._gauge_cls(INFO, INFO_DESCRIPTION, labelnames=[*INFO_LABELS, "engine"], multiprocess_mode="mostrecent")
    for engine in self.engine_indexes:
        info.labels(*values, str(engine)).set(1)
    if judge.scores is not None:
        _begin(self, judge.scores.limit)


def _begin(logger: Any, limit: float) -> None:
    """Makes the guard's gauges, with what they are before any window is full."""
    prom = logger.spec_decoding_prom
    labelnames, per_engine_labelvalues = prom.judge_labels
    for name, (own, description) in GAUGES.items():
        labels = [*labelnames, *own]
        gauge = logger._gauge_cls(name, description, labelnames=labels, multiprocess_mode="mostrecent")
        prom.judge_gauges[name] = gauge
        for of_engine in per_engine_labelvalues.values():
            for mode in [[mode] for mode in MODES] if own else [[]]:
                gauge.labels(*of_engine, *mode).set(limit if name == LIMIT else 0.0)


def observe(prom: Any, engine_idx: int, windows: list[Filled], stopped: bool) -> None:
    """Shows what a step has found."""
    if not prom.judge_gauges:  # another logger's, which never came here
        return
    _, per_engine_labelvalues = prom.judge_labels
    of_engine = per_engine_labelvalues[engine_idx]
    for window in windows:
        prom.judge_gauges[DRIFT].labels(*of_engine, window.mode).set(window.distance)
    if stopped:
        prom.judge_gauges[STOPPED].labels(*of_engine).set(1)
