"""The section `judge` of a speculative config: read, checked, carried to the workers."""

import os
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_judge.drift import CalibratedScores
from vllm_judge.errors import HeadError, JudgeConfigError
from vllm_judge.head import JudgeHead, fingerprint
from vllm_judge.head_files import shown
from vllm_judge.judge_json import SECTION, Place

# Modes and scopes, in a config and in a request.
JUDGE: Final = "judge"
SHADOW: Final = "shadow"
MODES = JUDGE, SHADOW
EVERYWHERE: Final = "everywhere"
THINKING: Final = "thinking"
SCOPES = EVERYWHERE, THINKING
# What is done where scores have left those of the calibration.
WARN: Final = "warn"
STRICT: Final = "strict"


class JudgeSection(BaseModel):
    """The `judge` section as the user writes it.

    Attributes:
        model: folder or Hub repository of the judge head.
        revision: revision of that Hub repository.
        threshold: acceptance threshold, a probability; absent: the head's own default.
        mode: "shadow": requests are decoded strictly, and what the judge would have let pass is counted.
        share: of the requests that are judged, where not all are; the others are in shadow.
        scope: "thinking": the judge may accept inside a request's reasoning part only.
        on_drift: "strict": where live scores leave those of the calibration, judging stops until the next start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    revision: str | None = None
    threshold: float | None = Field(default=None, ge=0.0, le=1.0, strict=True)
    mode: Literal["judge", "shadow"] = JUDGE
    share: float | None = Field(default=None, ge=0.0, le=1.0, strict=True)
    scope: Literal["everywhere", "thinking"] = EVERYWHERE
    on_drift: Literal["warn", "strict"] = WARN


@dataclass(frozen=True)
class JudgeConfig:
    """The section after all checks, as it travels to the workers on vLLM's own SpeculativeConfig.

    Attributes:
        model: absolute folder or Hub repository of the head, checked to be loadable; revision: the commit of that
            repository, the same for every process however its branches move.
        threshold: default acceptance threshold, a probability in [0, 1].
        protected_token_ids: tokens that only the strict test may accept: end-of-sequence and special tokens.
        fingerprint: of the head's numbers, see `head.fingerprint`.
        mode, scope: of requests that say nothing else; share: of such requests that are judged in mode "judge".
        thinking: the tokens that begin a request's reasoning part and those that end it; None where vLLM was not told.
        scores: of the head at calibration; None where live ones have nothing to be compared with.
        on_drift: what is done where live ones leave them.
    """

    model: str
    revision: str | None
    threshold: float
    protected_token_ids: tuple[int, ...]
    fingerprint: str = ""
    mode: str = JUDGE
    share: float = 1.0
    scope: str = EVERYWHERE
    thinking: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    scores: CalibratedScores | None = None
    on_drift: str = WARN


def judge_config(speculative_config: Any) -> JudgeConfig | None:
    """The judge that an engine was configured with."""
    return getattr(speculative_config, SECTION, None)


def read_speculative_config(
    source: str | os.PathLike[str] | dict[str, Any],
) -> tuple[dict[str, Any], JudgeSection | None]:
    """Splits a speculative config into vLLM's own part and the judge section.

    Args:
        source: a JSON file; a folder or Hub repository with a judge.json, such as a head's own; or the dict itself.
            Relative paths in a file (`model`, `judge.model`) are relative to it: "." is its folder or repository. In a
            dict they are relative to the working directory. Names that are no existing path are left as they are: Hub
            repositories. In a file from the Hub a path is what begins with a dot.

    Returns:
        vLLM's keys (a copy), and the section, None where there is none.

    Raises:
        JudgeConfigError: no such file, folder or repository, one without a judge.json, not JSON, not an object, or a
            section that does not fit.
    """
    if isinstance(source, dict):
        config, origin = dict(source), "speculative_config"
    else:
        place = Place.find(os.fspath(source))
        config, origin = place.read(), place.origin
        place.resolve(config)
        if isinstance(config.get(SECTION), dict):
            config[SECTION] = dict(config[SECTION])
            place.resolve(config[SECTION])
    if SECTION not in config:
        return config, None
    return config, _parse_section(config.pop(SECTION), origin)


def _parse_section(section: Any, origin: str) -> JudgeSection:
    if not isinstance(section, dict):
        raise JudgeConfigError(
            f'{SECTION} in {origin} must be an object such as {{"model": "path/to/head"}}, found {shown(section)}.'
        )
    try:
        parsed = JudgeSection(**section)
    except ValidationError as error:
        # A misspelt key is also a missing one: the misspelling says more.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        field = ".".join([SECTION, *(str(part) if str(part).isidentifier() else shown(part) for part in first["loc"])])
        known = ", ".join(JudgeSection.model_fields)
        sentence = _SECTION_ERRORS.get(first["type"], "{field} in {origin}: {msg}, found {found}.")
        found = shown(first["input"])
        raise JudgeConfigError(
            sentence.format(
                field=field, origin=origin, msg=first["msg"], found=found, known=known, **first.get("ctx", {})
            )
        ) from None
    if parsed.mode == SHADOW and parsed.share is not None:
        raise JudgeConfigError(
            f"{SECTION}.share in {origin} says which requests are judged, and mode {SHADOW!r} judges none: "
            "remove one of the two."
        )
    return parsed


_SECTION_ERRORS = {
    "extra_forbidden": "{field} in {origin} is unknown: the keys of judge are {known}.",
    "missing": "{field} in {origin} is missing: give the folder or Hub repository of the judge head.",
    "greater_than_equal": "{field} in {origin} must be a number from 0 to 1, found {found}.",
    "less_than_equal": "{field} in {origin} must be a number from 0 to 1, found {found}.",
    "float_type": "{field} in {origin} must be a number from 0 to 1, found {found}.",
    "literal_error": "{field} in {origin} must be {expected}, found {found}.",
    "finite_number": "{field} in {origin} must be a number from 0 to 1, found {found}.",
}


def load_head(section: JudgeSection, hidden_size: int) -> JudgeHead:
    """Loads the head that a section names and checks that it fits the target.

    Args:
        section: the judge section.
        hidden_size: H of the target model, as its output layer reads it.

    Raises:
        JudgeConfigError: no such head, a damaged one, or one of another hidden size.
    """
    try:
        head = JudgeHead.from_pretrained(section.model, revision=section.revision)
    except HeadError as error:
        raise JudgeConfigError(f"judge.model: {error}") from None
    if head.hidden_size != hidden_size:
        raise JudgeConfigError(
            f"judge.model {section.model} was trained for hidden size {head.hidden_size}, but the target's is "
            f"{hidden_size}: use a head trained on this target"
            + (f" (this one was trained on {head.target_model})." if head.target_model else ".")
        )
    return head


def calibrated_scores(section: JudgeSection, head: JudgeHead) -> CalibratedScores | None:
    """What an engine compares its judge's scores with; None where its threshold is not the calibration's.

    Raises:
        JudgeConfigError: they are another head's, or there are none and `on_drift` cannot be kept.
    """
    scores = head.scores
    if scores is not None and scores.head != fingerprint(head):
        raise JudgeConfigError(
            f"judge.model {section.model} carries the scores of another head, its weights have changed since: run "
            "`vllm-judge calibrate` on it, or remove scores from its config.json."
        )
    threshold = head.threshold if section.threshold is None else section.threshold
    usable = scores if scores is not None and scores.threshold == threshold else None
    if section.on_drift == STRICT and usable is None:
        found = "carries none" if scores is None else f"carries those of threshold {scores.threshold:g}"
        raise JudgeConfigError(
            f"judge.on_drift {STRICT!r} compares live scores with those of the calibration at threshold "
            f"{threshold:g}, and {section.model} {found}: run `vllm-judge calibrate` on it, or remove judge.on_drift."
        )
    return usable
