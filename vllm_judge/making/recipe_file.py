"""A recipe's file: YAML without surprises, paths from where it lies, and every mistake in a sentence."""

import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vllm_judge.errors import JudgeError
from vllm_judge.making import plain_yaml
from vllm_judge.making.recipe import Recipe
from vllm_judge.tokencourt.layouts import KNOWN
from vllm_judge.tokencourt.rows import SUFFIXES
from vllm_judge.untrusted_files import read_text

ROLES = ("draft", "target")  # names of who answers, whatever lies beside the recipe
TAGS = ("mine", "self", "llm", "function", "import")  # which pydantic puts into the place of a mistake in labels


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        JudgeError: it cannot be read, is no YAML, or no recipe; the sentence names file, field and what to do.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise JudgeError(f"the recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        content = plain_yaml.load(text)
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise JudgeError(f"{path} is not YAML that a recipe may be: {_line(str(error)).rstrip('.')}.") from None
    if not isinstance(content, dict):
        raise JudgeError(f"{path} must hold the keys of a recipe, such as target, found {type(content).__name__}.")
    return recipe(content, path.parent, str(path))


def recipe(content: dict[Any, Any], home: Path, origin: str) -> Recipe:
    """The recipe of these keys.

    Args:
        content: as YAML has them.
        home: what relative paths are relative to.
        origin: what a sentence calls it.

    Raises:
        JudgeError: it is none.
    """
    try:
        made = Recipe.model_validate(content)
    except ValidationError as error:
        raise JudgeError(f"{origin}: {_line(_sentence(dict(error.errors()[0]))).rstrip('.?')}.") from None
    content = made.model_dump()
    _resolve(content, home.resolve(), origin)
    return Recipe.model_validate(content)


def show(made: Recipe) -> str:
    """All of a recipe, defaults included, as YAML."""
    return yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _line(text: str) -> str:
    """A message as a line that a terminal can print."""
    printable = "".join(one if one.isprintable() else repr(one)[1:-1] for one in " ".join(text.split()))
    return textwrap.shorten(printable, 600, placeholder=" ...")


def _resolve(content: dict[str, Any], home: Path, origin: str) -> None:
    """Makes paths absolute: what is there is one, what begins like one must be, any other name is left as it is."""

    def resolve(holder: dict[str, Any], key: str, place: str = "", must: bool = False) -> None:
        if holder.get(key) is not None:
            holder[key] = _path(holder[key], home, f"{origin}: {place}{key}", must)

    for key in ("target", "draft"):
        resolve(content, key)
    resolve(content, "chat_template", must=True)
    resolve(content["drafter"] or {}, "model", "drafter.")
    for number, one in enumerate(content["questions"]):
        if one["source"] not in KNOWN:
            resolve(one, "source", f"questions[{number}].", must=one["source"].endswith(SUFFIXES))
    for number, one in enumerate(content["answers"]):
        if one["by"] not in ROLES and not one["endpoint"]:
            resolve(one, "by", f"answers[{number}].")
    for number, one in enumerate(content["labels"]):
        place = f"{origin}: labels[{number}].files"
        resolve(one, "draft", f"labels[{number}].")
        if "files" in one:
            one["files"] = [_path(file, home, place, must=True) for file in one["files"]]


def _path(name: str, home: Path, place: str, must: bool) -> str:
    try:
        path = home / Path(name).expanduser()
        if path.exists():
            return str(path.resolve())
    except (OSError, RuntimeError):  # no name of a file: too long, or the home of nobody
        path = home / name
    if must or name.startswith(("/", "./", "../", "~")):
        raise JudgeError(
            _line(f"{place} is {name}, and there is no {path}") + ": mend the path, which is relative to the recipe."
        )
    return name


def _sentence(error: dict[str, Any]) -> str:
    loc = [part for part in error["loc"] if part not in TAGS]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if error["type"] == "missing":
        return f"{field} is missing: give it (`vllm-judge make --help` has an example)"
    if error["type"] == "value_error":
        return ": ".join(filter(None, (field, error["msg"].removeprefix("Value error, "))))
    _, should, what = error["msg"].partition(" should ")  # "Input should be ...", "List should have ..."
    return f"{field} {f'should {what}' if should else error['msg']}, found {error['input']!r}"
