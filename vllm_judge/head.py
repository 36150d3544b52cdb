"""The judge head: one linear layer on the target's last hidden state (Bachmann et al., ICLR 2025, section 4)."""

import json
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open

from vllm_judge import hub
from vllm_judge.errors import HeadError

# What `hidden` means to a head. There is one convention; a file that names another one is refused.
HIDDEN_STATES = "own row, input of the output layer"
# The columns of `evidence`, in order (see kernels/reference.py, `evidence`).
EVIDENCE = ("log_prob", "entropy", "margin", "top_prob")
# Sixty times the widest model there is: beyond it the number is a mistake, and to allocate as much would be another.
MAX_HIDDEN_SIZE = 2**20
# The types of numbers, by their names in a safetensors header, that become fp32 without losing what they say.
WEIGHT_DTYPES = {"F64", "F32", "F16", "BF16"}


def logit(threshold: float) -> float:
    """The score that a probability `threshold` stands for: log(t / (1 - t)), with -inf at 0 and +inf at 1."""
    if threshold <= 0.0:
        return -math.inf
    if threshold >= 1.0:
        return math.inf
    return math.log(threshold / (1.0 - threshold))


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
        match first["type"]:
            case "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise HeadError(f"{_shown(field)} of {head} is unknown: the fields of a head are {known}.")
            case "missing":
                raise HeadError(f"{field} of {head} is missing: it {_MUST_BE[field]}.")
        raise HeadError(f"{field} of {head} {_MUST_BE[field]}, found {_shown(first['input'])}.")


_MUST_BE = {
    "hidden_size": f"must be a whole number from 1 to {MAX_HIDDEN_SIZE}",
    "use_evidence": "must be true or false",
    "threshold": "must be a number from 0 to 1",
    "target_model": "must be text or null",
    "target_revision": "must be text or null",
    "hidden_states": f"must be {HIDDEN_STATES!r} (fit the head again with this version's hidden states)",
    "provenance": "must be an object or null",
}


def _shown(value: Any) -> str:
    """A value in a sentence, however long or deep it is."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 200
    return shown.repr(value)


@dataclass(frozen=True)
class _Files:
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
                f"{_shown(source)} is neither a folder with a judge head nor a Hub repository that can be read: "
                f"{hub.reason(error)}"
            ) from error
        return cls(source, commit, config, weights)

    def read_config(self) -> HeadConfig:
        try:
            fields = json.loads(self.config.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise HeadError(
                f"{CONFIG_NAME} of the judge head in {self.source} is no JSON: {hub.reason(error)}"
            ) from error
        if not isinstance(fields, dict):
            raise HeadError(f"{CONFIG_NAME} of the judge head in {self.source} must hold an object: {_shown(fields)}.")
        return HeadConfig.of(fields, f"the judge head in {self.source}")

    def read_weights(self, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of the names and shapes of `like`, in fp32 and finite."""
        try:
            with safe_open(self.weights, framework="pt") as file:
                # The header first: what it names need not fit into memory.
                headers = {name: file.get_slice(name) for name in sorted(file.keys())}
                expected = {name: tuple(tensor.shape) for name, tensor in sorted(like.items())}
                found = {name: tuple(header.get_shape()) for name, header in headers.items()}
                if found != expected:
                    raise HeadError(
                        f"the judge head in {self.source} does not match its {CONFIG_NAME}: "
                        f"expected {expected}, found {found}."
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


class JudgeHead(
    torch.nn.Module,
    PyTorchModelHubMixin,
    library_name="vllm-judge-decoding",
    tags=["judge-decoding", "speculative-decoding", "vllm"],
):
    """Scores whether a draft token is right where it stands.

    score(d) = weight . h + evidence . e + bias, in fp32; the judge accepts d when score(d) > logit(threshold).

    `h` is the target's hidden state at the draft token's own row, after the target has consumed the token: the input of
    its output layer (LM head), whatever the model does before it. `e` is what the target's own distribution said of the
    token one row earlier, where it was verified: (log p, entropy, log p_max - log p, p_max), in nats.

    Parameters (all fp32): `weight` [H], `bias` [], and, where `use_evidence`, `evidence` [4].

    Args:
        hidden_size: H, the width of what the target's output layer reads: as a rule its hidden size.
        use_evidence: whether the head reads the target's own distribution too.
        threshold: default acceptance threshold, a probability in [0, 1].
        target_model: the model whose hidden states the head was fitted on, and `target_revision`, its revision.
        hidden_states: the convention of the hidden states; only "own row, input of the output layer" exists.
        provenance: how the head was trained and measured; free form, kept in config.json.

    Attributes:
        source: where `from_pretrained` read the head: an absolute folder, or a Hub repository; `commit`, the commit of
            that repository. Empty, and None, for a head that was made here.

    Raises:
        HeadError: a value is of another type or out of range, or the convention is unknown.
    """

    source: str = ""
    commit: str | None = None

    def __init__(
        self,
        hidden_size: int,
        use_evidence: bool = False,
        threshold: float = 0.5,
        target_model: str | None = None,
        target_revision: str | None = None,
        hidden_states: str = HIDDEN_STATES,
        provenance: dict[str, Any] | None = None,
    ):
        super().__init__()
        config = HeadConfig.of(
            {
                "hidden_size": hidden_size,
                "use_evidence": use_evidence,
                "threshold": threshold,
                "target_model": target_model,
                "target_revision": target_revision,
                "hidden_states": hidden_states,
                "provenance": provenance,
            }
        )
        self.hidden_size = config.hidden_size
        self.threshold = config.threshold
        self.target_model = config.target_model
        self.target_revision = config.target_revision
        self.provenance = config.provenance or {}
        self.weight = torch.nn.Parameter(torch.zeros(hidden_size, dtype=torch.float32))
        self.bias = torch.nn.Parameter(torch.zeros((), dtype=torch.float32))
        self.evidence = torch.nn.Parameter(torch.zeros(len(EVIDENCE))) if use_evidence else None

    def score(self, hidden: torch.Tensor, evidence: torch.Tensor | None = None) -> torch.Tensor:
        """Scores (log-odds) of tokens.

        Args:
            hidden: [..., H], any float dtype; the tokens' own rows.
            evidence: [..., 4] fp32, needed exactly when the head has `evidence` weights.

        Returns:
            [...] fp32; compare with `logit(threshold)`.
        """
        score = hidden.float() @ self.weight + self.bias
        if self.evidence is not None:
            if evidence is None:
                raise HeadError("this judge head reads evidence, and score() was called without it.")
            score = score + evidence.float() @ self.evidence
        return score

    forward = score

    def with_config(self, **config: Any) -> "JudgeHead":
        """A copy with the same weights and these fields: a head is saved with the fields that it was made with."""
        copy = JudgeHead(self.hidden_size, use_evidence=self.evidence is not None, **config).requires_grad_(False)
        copy.load_state_dict(self.state_dict())
        return copy.eval()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, **hub_options: Any
    ) -> "JudgeHead":
        """Loads a head, in fp32, for inference.

        Config and weights are of the same commit of a repository, even if it moves on meanwhile. Unlike the mixin's own
        loader this one never falls back to pickled weights.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a Hub repository.
            revision: revision of that repository; None is its main branch.
            hub_options: options of `huggingface_hub.hf_hub_download`, such as `token` and `cache_dir`.

        Raises:
            HeadError: no such head, a damaged one, or one that does not fit its config.json, in one sentence.
        """
        source = str(pretrained_model_name_or_path)
        try:
            files = _Files.find(source, revision, hub_options)
            head = cls(**files.read_config().model_dump())
            head.load_state_dict(files.read_weights(head.state_dict()))
        except HeadError:
            raise
        except Exception as error:  # what files and networks can do has no end
            raise HeadError(f"the judge head in {_shown(source)} cannot be read: {hub.reason(error)}") from error
        head.source, head.commit = files.source, files.commit
        return head.requires_grad_(False).eval()
