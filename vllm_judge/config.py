"""judge.json: vLLM's speculative config plus one section, `judge`: read, checked, carried to the workers."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_judge import hub
from vllm_judge.errors import HeadError, JudgeConfigError
from vllm_judge.head import JudgeHead

SECTION = "judge"
# A head's folder or repository is its deployment: by this name it holds the speculative config that serves the head.
JUDGE_JSON = "judge.json"


class JudgeSection(BaseModel):
    """The `judge` section as the user writes it.

    Attributes:
        model: folder or Hub repository of the judge head.
        revision: revision of that Hub repository.
        threshold: acceptance threshold, a probability; absent: the head's own default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    revision: str | None = None
    threshold: float | None = Field(default=None, ge=0.0, le=1.0, strict=True)


@dataclass(frozen=True)
class JudgeConfig:
    """The section after all checks, as it travels to the workers on vLLM's own SpeculativeConfig.

    Attributes:
        model: absolute folder or Hub repository of the head, checked to be loadable; revision: the commit of that
            repository, the same for every process however its branches move.
        threshold: default acceptance threshold, a probability in [0, 1].
        protected_token_ids: tokens that only the strict test may accept: end-of-sequence and special tokens.
    """

    model: str
    revision: str | None
    threshold: float
    protected_token_ids: tuple[int, ...]


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
        place = _Place.find(os.fspath(source))
        config, origin = _read_json(place.file), place.origin
        place.resolve(config)
        if isinstance(config.get(SECTION), dict):
            config[SECTION] = dict(config[SECTION])
            place.resolve(config[SECTION])
    if SECTION not in config:
        return config, None
    return config, _parse_section(config.pop(SECTION), origin)


def write_judge_json(folder: Path, draft: str, num_speculative_tokens: int) -> None:
    """Makes a head's folder its own deployment, at the threshold that the head's config.json says.

    Args:
        folder: the head's.
        draft: folder or Hub repository of the draft model.
        num_speculative_tokens: drafts per cycle.

    Raises:
        OSError: the folder cannot be written.
    """
    if _exists(Path(draft)):
        inside = Path(draft).resolve().is_relative_to(folder.resolve())
        draft = f"./{Path(draft).resolve().relative_to(folder.resolve())}" if inside else str(Path(draft).resolve())
    config = {
        "method": "draft_model",
        "model": draft,
        "num_speculative_tokens": num_speculative_tokens,
        SECTION: {"model": "."},
    }
    (folder / JUDGE_JSON).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Place:
    """Where a speculative config lies: a file here, or one that came from a commit of a Hub repository."""

    file: Path
    repository: str | None = None
    commit: str | None = None

    @classmethod
    def find(cls, source: str) -> Self:
        path = Path(source)
        if _exists(path):
            file = path / JUDGE_JSON if path.is_dir() else path
            if not file.exists():
                raise JudgeConfigError(
                    f"speculative_config names the folder {source}, which holds no {JUDGE_JSON}: "
                    "write one, calibrate the head that is in it (which does), or give a JSON file or JSON text."
                )
            return cls(file)
        if not _may_be_repository(source):
            raise JudgeConfigError(
                f"speculative_config names {source}, which is no file or folder and cannot be a Hub repository "
                f"(owner/name): give a head's folder or repository with a {JUDGE_JSON}, a JSON file, or JSON text."
            )
        try:
            file, commit = hub.download(source, JUDGE_JSON, None)
        except (HfHubHTTPError, OSError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                raise JudgeConfigError(
                    f"speculative_config names the Hub repository {source}, which holds no {JUDGE_JSON}: "
                    "give a head's repository that holds one, a JSON file, or JSON text."
                ) from None
            raise JudgeConfigError(
                f"speculative_config names {source}, which is no file or folder, and as a Hub repository its "
                f"{JUDGE_JSON} cannot be read: {hub.reason(error)}"
            ) from None
        return cls(file, source, commit)

    @property
    def origin(self) -> str:
        return f"{JUDGE_JSON} of {self.repository}" if self.repository else str(self.file)

    def resolve(self, section: dict[str, Any]) -> None:
        """Makes a relative `model` absolute where it is a path."""
        model = section.get("model")
        if not isinstance(model, str):
            return
        if self.repository is None:
            if _exists(self.file.parent / model):
                section["model"] = str((self.file.parent / model).resolve())
        elif model == ".":
            section |= {"model": self.repository, "revision": self.commit}
        elif model.startswith("./"):
            section["model"] = self._download(model.removeprefix("./").rstrip("/"))

    def _download(self, folder: str) -> str:
        """A folder of the repository, of the same commit."""
        try:
            root = snapshot_download(str(self.repository), revision=self.commit, allow_patterns=f"{folder}/*")
        except (HfHubHTTPError, OSError) as error:
            raise JudgeConfigError(
                f"model in {self.origin} is ./{folder}, which cannot be read: {hub.reason(error)}"
            ) from None
        if not _exists(Path(root) / folder):
            raise JudgeConfigError(f"model in {self.origin} is ./{folder}, and that repository has no such folder.")
        return str(Path(root) / folder)


def _exists(path: Path) -> bool:
    # A name that no path can have, such as a very long one, is no path.
    with contextlib.suppress(OSError, ValueError):
        return path.exists()
    return False


def _may_be_repository(source: str) -> bool:
    # A head's repository has an owner, and a file's name that is misspelt should not be looked for in the Hub.
    if source.count("/") != 1 or source.endswith(".json"):
        return False
    with contextlib.suppress(HFValidationError):
        validate_repo_id(source)
        return True
    return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeConfigError(f"speculative_config names the file {path}, which cannot be read: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise JudgeConfigError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise JudgeConfigError(f"{path} must hold a JSON object, found {type(config).__name__}.")
    return config


def _parse_section(section: Any, origin: str) -> JudgeSection:
    if not isinstance(section, dict):
        raise JudgeConfigError(
            f'{SECTION} in {origin} must be an object such as {{"model": "path/to/head"}}, found {section!r}.'
        )
    try:
        return JudgeSection(**section)
    except ValidationError as error:
        # A misspelt key is also a missing one: the misspelling says more.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        field = ".".join([SECTION, *map(str, first["loc"])])
        known = ", ".join(JudgeSection.model_fields)
        sentence = _SECTION_ERRORS.get(first["type"], "{field} in {origin}: {msg}, found {found!r}.")
        found = first["input"]
        raise JudgeConfigError(
            sentence.format(field=field, origin=origin, msg=first["msg"], found=found, known=known)
        ) from None


_SECTION_ERRORS = {
    "extra_forbidden": "{field} in {origin} is unknown: the keys of judge are {known}.",
    "missing": "{field} in {origin} is missing: give the folder or Hub repository of the judge head.",
    "greater_than_equal": "{field} in {origin} must be a number from 0 to 1, found {found!r}.",
    "less_than_equal": "{field} in {origin} must be a number from 0 to 1, found {found!r}.",
    "float_type": "{field} in {origin} must be a number from 0 to 1, found {found!r}.",
    "finite_number": "{field} in {origin} must be a number from 0 to 1, found {found!r}.",
}


def load_head(section: JudgeSection, hidden_size: int) -> JudgeHead:
    """Loads the head that a section names and checks that it fits the target.

    Args:
        section: the judge section.
        hidden_size: H of the target model.

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
