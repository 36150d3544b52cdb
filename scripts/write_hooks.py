"""Writes docs/hooks.md, the register of what this package changes in vLLM, from what the code says of itself.

    python scripts/write_hooks.py

Every change says Symptom, Why, How and Until in the docstring or the comment beside it; a test holds the page to them.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vllm_judge.engine.contract import HOOKED

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "hooks.md"
PARTS = ("Symptom", "Why", "How", "Until")
HEAD = """# What is changed in vLLM

vLLM has no slot for a verifier ([RFC #51212](https://github.com/vllm-project/vllm/issues/51212)), so the plugin wraps
some of its functions. All of it is in `vllm_judge/engine/`; `hooks.py` there is the register of the wrapped functions.
Each is checked against a contract of its parameters when an engine with a judge is configured (for a version that is
not installed, `scripts/check_vllm.py VERSION` does so). Where one does not fit nothing is wrapped and a judge
is refused; engines without a judge are left alone either way.

Written by `scripts/write_hooks.py` from the code's own words: what happens without the change, why vLLM is so, what is
done, and when it can go.
"""


class Change(NamedTuple):
    """What is said of one: the file, and the parts in the order of PARTS."""

    file: str
    symptom: str
    why: str
    how: str
    until: str


def changes() -> Iterator[Change]:
    """All that is said, file by file."""
    said = re.compile(r"Symptom: (.+?) Why:\s(.+?)\sHow:\s(.+?)\sUntil:\s(.+?)(?:\n\n|\"{3}|\n +Hook\()", re.DOTALL)
    for path in sorted((ROOT / "vllm_judge" / "engine").rglob("*.py")):
        text = re.sub(r"(?m)^\s*# ?", "", path.read_text(encoding="utf-8"))
        for found in said.finditer(re.sub(r"[ \n]+(?=Why:|How:|Until:)", " ", text)):
            yield Change(path.relative_to(ROOT).as_posix(), *(" ".join(part.split()) for part in found.groups()))


def page() -> str:
    """The page's text."""
    blocks = [HEAD, "Wrapped:\n"]
    blocks.append("\n".join(f"- `{function.target}`" for function in HOOKED) + "\n")
    for change in changes():
        symptom = change.symptom.rstrip(".")
        blocks.append(f"## {symptom[0].upper()}{symptom[1:]}\n\n`{change.file}`\n")
        points = (f"- **{name}:** {_linked(said)}" for name, said in zip(PARTS[1:], change[2:], strict=True))
        blocks.append("\n".join(map(_wrapped, points)) + "\n")
    return "\n".join(blocks)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _linked(text: str) -> str:
    return re.sub(r"(?:vllm-project/vllm)?#(\d{5})", r"[#\1](https://github.com/vllm-project/vllm/issues/\1)", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
