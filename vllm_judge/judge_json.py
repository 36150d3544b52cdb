"""judge.json: where it lies, what paths in it are relative to, and how it is written."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from vllm_judge import hub
from vllm_judge.errors import JudgeConfigError
from vllm_judge.untrusted_files import read_json

SECTION = "judge"
# A head's folder or repository is its deployment: by this name it holds the speculative config that serves the head.
JUDGE_JSON = "judge.json"


@dataclass(frozen=True)
class Place:
    """Where a speculative config lies: a file here, or one that came from a commit of a Hub repository."""

    file: Path
    repository: str | None = None
    commit: str | None = None

    @classmethod
    def find(cls, source: str) -> Self:
        """The place that a file's, a folder's or a Hub repository's name stands for.

        Raises:
            JudgeConfigError: there is none, or it holds no judge.json.
        """
        path = Path(source)
        if _exists(path):
            file = path / JUDGE_JSON if path.is_dir() else path
            if not file.exists():
                raise JudgeConfigError(
                    f"speculative_config names the folder {source}, which holds no {JUDGE_JSON}: "
                    "write one, calibrate the head that is in it (which does), or give a JSON file or JSON text."
                )
            return cls(file)
        if not may_be_repository(source):
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
        """What a sentence calls it."""
        return f"{JUDGE_JSON} of {self.repository}" if self.repository else str(self.file)

    def read(self) -> dict[str, Any]:
        """The JSON object that lies here.

        Raises:
            JudgeConfigError: it cannot be read, is not JSON, or no object.
        """
        try:
            config = read_json(self.file)
        except (OSError, UnicodeDecodeError) as error:
            raise JudgeConfigError(
                f"speculative_config names the file {self.file}, which cannot be read: {error}."
            ) from None
        except ValueError as error:
            raise JudgeConfigError(f"{self.file} is not valid JSON: {error}.") from None
        if not isinstance(config, dict):
            raise JudgeConfigError(f"{self.file} must hold a JSON object, found {type(config).__name__}.")
        return config

    def resolve(self, section: dict[str, Any]) -> None:
        """Makes a relative `model` absolute where it is a path.

        Raises:
            JudgeConfigError: it is a folder of a repository that has none by that name.
        """
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

    def unportable(self) -> Iterator[str]:
        """Every reason, one sentence each, why this file would mean nothing on another machine."""
        config, home = self.read(), self.file.parent.resolve()
        section = config.get(SECTION)
        for name, holder in (("model", config), (f"{SECTION}.model", section if isinstance(section, dict) else {})):
            model = holder.get("model")
            if not isinstance(model, str) or not (Path(model).is_absolute() or _exists(home / model)):
                continue
            if Path(model).is_absolute() or not (home / model).resolve().is_relative_to(home):
                yield (
                    f"{name} in {self.file} is {model}, a folder of this machine: name a Hub repository, "
                    'or what lies beside the file ("." or "./folder").'
                )
            elif not model.startswith("."):
                yield f"{name} in {self.file} is {model}, which a Hub repository could be called, too: write ./{model}."

    def _download(self, folder: str) -> str:
        """A folder of the repository, of the same commit."""
        try:
            root = snapshot_download(str(self.repository), revision=self.commit, allow_patterns=f"{folder}/*")
        except (HfHubHTTPError, OSError) as error:
            raise JudgeConfigError(
                f"model in {self.origin} is ./{folder}, which cannot be read: {hub.reason(error)}"
            ) from None
        path = Path(root, folder).resolve()
        if not (path.is_dir() and path.is_relative_to(Path(root).resolve())):
            raise JudgeConfigError(f"model in {self.origin} is ./{folder}, and that repository has no such folder.")
        return str(path)


def _exists(path: Path) -> bool:
    # A name that no path can have, such as a very long one, is no path.
    with contextlib.suppress(OSError, ValueError):
        return path.exists()
    return False


def may_be_repository(source: str) -> bool:
    """Whether a Hub repository with an owner can have this name; a misspelt file is not looked for in the Hub."""
    if source.count("/") != 1 or source.endswith(".json"):
        return False
    with contextlib.suppress(HFValidationError):
        validate_repo_id(source)
        return True
    return False


def write_judge_json(folder: Path, speculative_config: dict[str, Any]) -> None:
    """Makes a head's folder its own deployment, at the threshold that the head's config.json says.

    Args:
        folder: the head's.
        speculative_config: vLLM's own keys. A `model` that is a folder is named relative to the head's where it lies
            inside, absolutely otherwise.

    Raises:
        OSError: the folder cannot be written.
    """
    config = {**speculative_config, SECTION: {"model": "."}}
    model = config.get("model")
    if isinstance(model, str) and _exists(Path(model)):
        path, home = Path(model).resolve(), folder.resolve()
        config["model"] = f"./{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
    (folder / JUDGE_JSON).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
