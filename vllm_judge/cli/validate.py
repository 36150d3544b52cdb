"""The command `vllm-judge validate`."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_judge.cli.options import EngineOptions, json_object
from vllm_judge.cli.screen import say, warn
from vllm_judge.errors import JudgeError

if TYPE_CHECKING:
    from vllm_judge.config import JudgeSection
    from vllm_judge.engine.preview import Preview


def validate(
    source: Annotated[
        str, typer.Argument(metavar="PATH-OR-ID", help="A head's folder or Hub repository, or a judge.json.")
    ],
    target: Annotated[str | None, typer.Option(help="Folder or repository; by default the head's own target.")] = None,
    engine: EngineOptions = "{}",
) -> None:
    """Says what vLLM would run with this speculative config, and what it would refuse; starts no engine."""
    options = json_object(engine, "--engine")
    if find_spec("vllm") is None:
        raise JudgeError("validate asks vLLM what it would run, and vLLM is not installed here: install it.")
    from vllm_judge.engine.preview import preview

    found = preview(source, target, options)
    for name, value in _lines(found):
        say(f"{name:<15}{value}")
    for doubt in found.doubts:
        warn(doubt)
    if found.refused:
        raise JudgeError("\n".join(f"refused: {sentence}" for sentence in found.refused))
    say(f"Nothing is refused: vllm serve {found.target} --speculative-config {source}")


def _judges(section: "JudgeSection") -> str:
    """What is not as a judge is by default."""
    said = []
    if section.mode == "shadow":
        said.append("nothing: shadow")
    if section.share is not None:
        said.append(f"{section.share:.0%} of the requests, the others in shadow")
    if section.scope == "thinking":
        said.append("reasoning only")
    return ", ".join(said)


def _lines(found: "Preview") -> list[tuple[str, str]]:
    from vllm_judge.engine.preview import promise
    from vllm_judge.head import EVIDENCE
    from vllm_judge.head_files import HIDDEN_STATES

    lines = [("target", found.target), ("vLLM", found.vllm), ("model runner", found.runner)]
    if speculative := found.speculative:
        # Where no model drafts, vLLM puts the method's name there.
        model = "" if speculative.model in (None, speculative.method) else f", {speculative.model}"
        drafts = speculative.num_speculative_tokens
        lines.append(("drafter", f"{speculative.method}{model}, {drafts} drafts per cycle"))
    if head := found.head:
        reads = f"{head.hidden_size} numbers of the hidden state ({HIDDEN_STATES})"
        if head.evidence is not None:
            reads += f" and evidence ({', '.join(EVIDENCE)})"
        own = "the head's own" if found.threshold == head.threshold else f"the head's own is {head.threshold:g}"
        lines += [
            ("head", head.source + (f" at {head.commit}" if head.commit else "")),
            ("reads", reads),
            ("threshold", f"{found.threshold:g} ({own})"),
            *([("judges", judges)] if (judges := _judges(found.section)) else []),
            ("fitted on", head.target_model or "not said"),
            ("promise", promise(head) or "none: `vllm-judge calibrate` shows what it costs"),
        ]
    return lines
