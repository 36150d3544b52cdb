"""What an engine counts while it works: vLLM's own counters and the judge's, from their Prometheus text."""

from dataclasses import astuple, dataclass

from prometheus_client.parser import text_string_to_metric_families

from vllm_judge.errors import JudgeError

JUDGE_ONLY = "vllm:spec_decode_num_judge_only_tokens_total"
STOPPED = "vllm:judge_stopped"
# Fields of Counters, in order.
SAMPLES = (
    "vllm:generation_tokens_total",
    "vllm:spec_decode_num_drafts_total",
    "vllm:spec_decode_num_accepted_tokens_total",
    JUDGE_ONLY,
    "vllm:request_time_per_output_token_seconds_sum",
    "vllm:request_time_per_output_token_seconds_count",
)


@dataclass(frozen=True)
class Counters:
    """Totals since the engine started, or, as a difference, of a while.

    Attributes:
        tokens: generated tokens.
        cycles: target verifications; accepted: draft tokens accepted in them; judge_only: those of them that the strict
            test alone would have rejected.
        token_seconds: sum over requests of the mean seconds between their tokens; requests: how many these were.
    """

    tokens: float
    cycles: float
    accepted: float
    judge_only: float
    token_seconds: float
    requests: float

    @classmethod
    def parse(cls, text: str) -> "Counters":
        """From the text of /metrics; counters of several engines behind one server are added up.

        Raises:
            JudgeError: the engine has no judge, or one that has stopped judging, or is no vLLM engine.
        """
        totals = dict.fromkeys(SAMPLES, 0.0)
        found = set()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == STOPPED and sample.value:
                    raise JudgeError(
                        "the engine has stopped judging, since the judge's scores left those of its calibration "
                        "(judge.on_drift 'strict'): what it answers is strict verification's. Restart it."
                    )
                if sample.name in totals:
                    totals[sample.name] += sample.value
                    found.add(sample.name)
        if JUDGE_ONLY not in found:
            raise JudgeError(
                "the engine counts no judge-only tokens: start it with a section `judge` in its speculative config."
            )
        return cls(*totals.values())

    @classmethod
    def none(cls) -> "Counters":
        """Before anything was counted."""
        return cls(*(0.0 for _ in SAMPLES))

    def __add__(self, more: "Counters") -> "Counters":
        return Counters(*(one + other for one, other in zip(astuple(self), astuple(more), strict=True)))

    def __sub__(self, earlier: "Counters") -> "Counters":
        return Counters(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))
