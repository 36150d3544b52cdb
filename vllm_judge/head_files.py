"""The files of a judge head: config.json under a strict model, safetensors under a strict reader, one sentence else."""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open

from vllm_judge import hub
from vllm_judge.drift import MIN_ANSWERS, CalibratedScores
from vllm_judge.errors import HeadError
from vllm_judge.untrusted_files import read_json

# What `hidden` means to a head. There is one convention; a file that names another one is refused.
HIDDEN_STATES = "own row, input of the output layer"
# Sixty times the widest model there is: beyond it the number is a mistake, and to allocate as much would be another.
MAX_HIDDEN_SIZE = 2**20
# A thousand times the header of three tensors.
MAX_HEADER_BYTES = 2**20
# The types of numbers, by their names in a safetensors header, that become fp32 without losing what they say.
WEIGHT_DTYPES = {"F64", "F32", "F16", "BF16"}


class HeadConfig(BaseModel):
    """A head's config.json; the fields are explained in `JudgeHead`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    hidden_size: int = Field(ge=1, le=MAX_HIDDEN_SIZE)
    use_evidence: bool = False
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    target_model: str | None = None
    target_revision: str | None = None
    hidden_states: str = HIDDEN_STATES
    provenance: dict[str, Any] | None = None
    scores: CalibratedScores | None = None

    @field_validator("hidden_states")
    @classmethod
    def known(cls, convention: str) -> str:
        if convention != HIDDEN_STATES:
            raise ValueError
        return convention

    @classmethod
    def of(cls, fields: dict[str, Any], head: str = "a judge head") -> Self:
        """Checks the fields of a head, which a sentence calls `head`.

        Raises:
            HeadError: a field is missing, unknown, of another type or out of range.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            # A misspelt field is also a missing one: the misspelling says more.
            first = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
        field = str(first["loc"][0])
        match first["type"] if len(first["loc"]) == 1 else "":
            case "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise HeadError(f"{shown(field)} of {head} is unknown: the fields of a head are {known}.")
            case "missing":
                raise HeadError(f"{field} of {head} is missing: it {_MUST_BE[field]}.")
        raise HeadError(f"{field} of {head} {_MUST_BE[field]}, found {shown(first['input'])}.")


_MUST_BE = {
    "hidden_size": f"must be a whole number from 1 to {MAX_HIDDEN_SIZE}",
    "use_evidence": "must be true or false",
    "threshold": "must be a number from 0 to 1",
    "target_model": "must be text or null",
    "target_revision": "must be text or null",
    "hidden_states": f"must be {HIDDEN_STATES!r} (fit the head again with this version's hidden states)",
    "provenance": "must be an object or null",
    "scores": f"must be as `vllm-judge calibrate` writes them, of {MIN_ANSWERS} answers or more, or null",
}


def shown(value: Any) -> str:
    """A value in a sentence, however long or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    return short.repr(value)


@dataclass(frozen=True)
class HeadFiles:
    """Where a head lies: `source` is an absolute folder or a Hub repository, `commit` a commit of the latter."""

    source: str
    commit: str | None
    config: Path
    weights: Path

    @classmethod
    def find(cls, source: str, revision: str | None, hub_options: dict[str, Any]) -> Self:
        folder = Path(source)
        if folder.is_dir():
            for name in (SAFETENSORS_SINGLE_FILE, CONFIG_NAME):
                if not (folder / name).is_file():
                    raise HeadError(f"no judge head in {source}: it holds no {name}.")
            return cls(str(folder.resolve()), None, folder / CONFIG_NAME, folder / SAFETENSORS_SINGLE_FILE)
        try:
            config, commit = hub.download(source, CONFIG_NAME, revision, **hub_options)
            weights, _ = hub.download(source, SAFETENSORS_SINGLE_FILE, commit, **hub_options)
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            raise HeadError(
                f"{shown(source)} is neither a folder with a judge head nor a Hub repository that can be read: "
                f"{hub.reason(error)}"
            ) from error
        return cls(source, commit, config, weights)

    def read_config(self) -> HeadConfig:
        try:
            fields = read_json(self.config)
        except ValueError as error:
            raise HeadError(
                f"{CONFIG_NAME} of the judge head in {self.source} is no JSON: {hub.reason(error)}"
            ) from error
        if not isinstance(fields, dict):
            raise HeadError(f"{CONFIG_NAME} of the judge head in {self.source} must hold an object: {shown(fields)}.")
        return HeadConfig.of(fields, f"the judge head in {self.source}")

    def read_weights(self, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of the names and shapes of `like`, in fp32 and finite."""
        self._check_header()
        try:
            with safe_open(self.weights, framework="pt") as file:
                # The header first: what it names need not fit into memory.
                headers = {name: file.get_slice(name) for name in sorted(file.keys())}
                expected = {name: tuple(tensor.shape) for name, tensor in sorted(like.items())}
                found = {name: tuple(header.get_shape()) for name, header in headers.items()}
                if found != expected:
                    raise HeadError(
                        f"the judge head in {self.source} does not match its {CONFIG_NAME}: "
                        f"expected {expected}, found {shown(found)}."
                    )
                if other := {header.get_dtype() for header in headers.values()} - WEIGHT_DTYPES:
                    raise HeadError(
                        f"the judge head in {self.source} holds weights of type {', '.join(sorted(other))}: "
                        "save them as F32."
                    )
                weights = {name: file.get_tensor(name).float() for name in headers}
        except SafetensorError as error:
            raise HeadError(
                f"the judge head in {self.source} is damaged: {SAFETENSORS_SINGLE_FILE}: {error}."
            ) from error
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise HeadError(f"the judge head in {self.source} holds weights that are not finite in fp32.")
        return weights

    def _check_header(self) -> None:
        """A header names tensors; read at all, one of gigabytes would take more than it says."""
        with self.weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise HeadError(
                f"the judge head in {self.source} is damaged: {SAFETENSORS_SINGLE_FILE}: its header is of {length} "
                f"bytes, and a head's is of {MAX_HEADER_BYTES} at most."
            )
