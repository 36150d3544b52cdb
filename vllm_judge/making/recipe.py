"""A recipe: which pair, which questions, how labels come about, what is promised. Every key of it stands here."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vllm_judge.tokencourt.choices import HELD_OUT, Check
from vllm_judge.training.choices import Dtype, Features, Store

Options = dict[str, Any]


class Part(BaseModel):
    """A part of a recipe: a key that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, value: Any) -> Any:
        known = list(cls.model_fields)
        for key in value if isinstance(value, dict) else ():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                meant = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}."
                raise ValueError(f"{key} is unknown: {meant}")
        return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _short_for(key: str) -> BeforeValidator:
    """`name` may stand for {key: name}."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


Lax = Field(strict=False)  # one of a few words, which YAML has as text
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Counts = Annotated[list[Count], BeforeValidator(_listed), Field(min_length=1)]


class Questions(Part):
    """A dataset or file of questions: the argument and the options of `court questions`."""

    source: str
    layout: str | None = None
    question_field: str | None = None
    reference_field: str | None = None
    check: Annotated[Check | None, Lax] = None
    config: str | None = None
    split: str | None = None
    limit: Count | None = None


class Answers(Part):
    """Who answers the questions: `draft`, `target`, or another model, in vLLM here or behind an endpoint."""

    by: str
    endpoint: str | None = None
    temperatures: Annotated[list[Annotated[float, Field(ge=0.0)]], BeforeValidator(_listed), Field(min_length=1)] = [
        0.7
    ]
    samples: Count = 1


class Mined(Part):
    """Labels from the pair itself, by references or none; `draft` where the drafter is no model that can answer."""

    by: Literal["mine", "self"]
    draft: str | None = None


class ByModel(Part):
    """Answers checked by their final answer, and the first mistake of the wrong ones marked by a model."""

    by: Literal["llm"]
    endpoint: str
    model: str


class ByFunction(Part):
    """Answers labelled by a Python function."""

    by: Literal["function"]
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]


class Imported(Part):
    """Labels that others published."""

    by: Literal["import"]
    format: Literal["processbench", "autojudge"]
    files: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]


Labels = Annotated[
    Annotated[Mined | ByModel | ByFunction | Imported, Field(discriminator="by")],
    _short_for("by"),
]


class Engines(Part):
    """Options of vLLM's `LLM` by role: the target alone, the draft alone, and both as they will serve."""

    target: Options = {}
    draft: Options = {}
    serve: Options = {}


class Head(Part):
    """What the head reads, and how it is fitted."""

    features: Annotated[list[Annotated[Features, Lax]], BeforeValidator(_listed), Field(min_length=1)] = [Features.both]
    store: Annotated[Store, Lax] = Store.float32
    wrong_after_mistake: bool = False
    balance_positions: bool = False


class Push(Part):
    """Where the head is sent to."""

    repository: str
    private: bool = False
    target: str | None = None


class Recipe(Part):
    """What `vllm-judge make` makes. A path is relative to the recipe's file."""

    target: str
    draft: str | None = None
    drafter: Options | None = None
    questions: Annotated[
        list[Annotated[Questions, _short_for("source")]], BeforeValidator(_listed), Field(min_length=1)
    ]
    held_out: Share = HELD_OUT
    answers: Annotated[list[Answers], BeforeValidator(_listed)] = []
    labels: Annotated[list[Labels], BeforeValidator(_listed), Field(min_length=1)] = [Mined(by="mine")]
    max_tokens: Count = 1024
    requests_at_a_time: Count = 16
    dtype: Annotated[Dtype, Lax] = Dtype.auto
    chat_template: str | None = None
    engine: Engines = Engines()
    head: Head = Head()
    max_accuracy_drop: Annotated[float, Field(ge=0.0)] = 1.0
    max_calibration_questions: Count | None = None
    thresholds: Annotated[list[Share], BeforeValidator(_listed), Field(min_length=1)] = [0.3, 0.5, 0.7, 0.9, 0.97]
    num_speculative_tokens: Counts = [4, 8, 16]
    strict_drafts: Annotated[list[Count], BeforeValidator(_listed)] = [2, 4]
    concurrency: Counts = [8]
    push: Annotated[Push | None, _short_for("repository")] = None
    name: Annotated[str | None, Field(pattern=r"^[\w.-]+$")] = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.draft is None) == (self.drafter is None):
            raise ValueError("draft or drafter: give one of the two, a model or vLLM's own speculative config")
        if self.drafter is not None:
            for key in {"judge", "num_speculative_tokens", "num_speculative_tokens_per_batch_size"} & set(self.drafter):
                raise ValueError(f"drafter.{key} is what `make` finds out: leave it out")
            if "method" not in self.drafter:
                raise ValueError("drafter.method is missing: give one of vLLM's, such as eagle3, mtp or ngram")
            for number, one in enumerate(self.labels):
                if isinstance(one, Mined) and one.draft is None:
                    raise ValueError(
                        f"labels[{number}].draft is missing: the drafter is no model that {one.by} can ask"
                    )
        read = [one.by for one in self.labels if isinstance(one, ByModel | ByFunction)]
        if read and not self.answers:
            raise ValueError(f"answers is missing: labels by {read[0]} are of answers, so say who answers")
        if self.answers and not read:
            raise ValueError("answers are read by none of labels: leave them out, or label them by llm or function")
        if self.drafter is not None and any(one.by == "draft" for one in self.answers):
            raise ValueError("answers: by draft needs a draft that is a model: name the model instead")
        return self

    @property
    def title(self) -> str:
        """The head's name."""
        return self.name or f"{Path(self.target).name}-judge"

    @property
    def speculative_config(self) -> Options:
        """The drafter as vLLM takes it, without a number of drafts."""
        return self.drafter or {"method": "draft_model", "model": self.draft}
