"""What each step would do, what is there already, and how long the rest takes where steps of its kind were timed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import HFValidationError

from vllm_judge.making.recipe import Mined, Recipe
from vllm_judge.making.step import PROMISE, Step, lines

# Of a step that was not timed yet, what goes about as fast: the target writes the answers.
LIKE = {PROMISE: "answers of {target}"}


@dataclass(frozen=True)
class Planned:
    """A step that is to be run.

    Attributes:
        does: what it works on, counted as far as that is known.
        there: what is there already.
        time: how long it took, or will take, or when that will be known.
    """

    step: Step
    does: str
    there: str
    time: str


def planned(steps: Sequence[Step], target: str) -> Iterator[Planned]:
    """Every step, with what is known of it; reads files, starts nothing."""
    known = {step.pace: record for step in steps if (record := step.record()).timed}
    for step in steps:
        record, done = step.record(), step.is_done()
        count = record.total or step.count
        there = count or record.done if done else max(record.done, min(lines(step.watched), count or 0))
        like = LIKE.get(step.pace, "").format(target=Path(target).name)
        timed = known.get(step.pace, known.get(like))
        if done:
            time = f"took {duration(record.seconds)}"
        elif timed and count:
            start = timed.seconds - timed.timed_seconds  # of an engine, mostly
            time = f"about {duration(start + timed.timed_seconds / timed.timed * max(0, count - there))}"
        else:
            time = f"unknown until first {step.unit} are timed"
        does = f"{'' if record.total else 'up to '}{count:,} {step.unit}" if count else f"{step.unit}, counted later"
        yield Planned(step, does, "done" if done else f"{there:,} {step.unit}" if there else "", time)


def models(recipe: Recipe) -> Iterator[tuple[str, bool]]:
    """The models of a recipe that run here, and whether each is on this machine."""
    names = [recipe.target, recipe.speculative_config.get("model")]
    names += [one.by for one in recipe.answers if not one.endpoint and one.by not in ("draft", "target")]
    names += [one.draft for one in recipe.labels if isinstance(one, Mined)]
    for name in dict.fromkeys(name for name in names if name):
        yield name, Path(name).is_dir() or _is_cached(name)


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h" if hours else f"{minutes}:{rest:02} min"


def _is_cached(repository: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(repository, "config.json"), str)
    except HFValidationError:
        return False
