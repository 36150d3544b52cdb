"""The command `vllm-judge make`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_judge.cli.screen import console, say
from vllm_judge.errors import JudgeError

if TYPE_CHECKING:
    from vllm_judge.making.recipe import Recipe
    from vllm_judge.making.step import Step


def make(
    recipe_file: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe in YAML; recipes/ has some.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="In place of a recipe: folder or repository of the target.")
    ] = None,
    draft: Annotated[str | None, typer.Option(help="The draft model's.")] = None,
    questions: Annotated[list[str] | None, typer.Option(help="gsm8k, or what `court questions` takes.")] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(min=0.0, help="What is promised, in percentage points below strict verification.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The head's folder; by default <target>-judge.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for what is made on the way; by default OUTPUT.work.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what each step will do, and start nothing.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with all defaults, and stop.")] = False,
) -> None:
    """Makes a head, its threshold and its number of drafts from a recipe; run again, it goes on where it stopped."""
    from vllm_judge.making import plan as planning
    from vllm_judge.making import recipe_file as files

    options = {"target": target, "draft": draft, "questions": questions, "max_accuracy_drop": max_accuracy_drop}
    given = {name: value for name, value in options.items() if value is not None}
    if (recipe_file is None) == (not given):
        raise JudgeError("give a recipe, or --target, --draft and --questions in its place.")
    recipe = files.read_recipe(recipe_file) if recipe_file else files.recipe(given, Path(), "the options")
    if show:
        say(files.show(recipe).rstrip())
        return
    folder = output or Path(recipe.title)
    place = work or folder.with_name(f"{folder.name}.work")
    home = recipe_file.parent if recipe_file else Path()
    steps = planning.steps(recipe, place, home, folder)
    if plan:
        _plan(recipe, steps, folder)
        return

    from vllm_judge.making.outcome import paragraph
    from vllm_judge.making.run import run_all

    with _screen(len(steps)) as shown:
        run_all(steps, place, home, shown)
    say(paragraph(folder, recipe.target))


def _plan(recipe: "Recipe", steps: "list[Step]", folder: Path) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from vllm_judge.making.estimate import models, planned

    for name, is_here in models(recipe):
        say(f"{name}: {'here' if is_here else 'not here, will be fetched'}")
    table = Table("", "step", "works on", "there already", "time", "command", box=SIMPLE)
    for number, one in enumerate(planned(steps, recipe.target), 1):
        table.add_row(str(number), one.step.name, one.does, one.there, one.time, one.step.called)
    console().print(table)
    say(f"The head goes to {folder}, with a judge.json only if the promise is shown to be kept.")


class _Screen:
    """One display of all steps: how many are done, how far the present one is, and above them what it says."""

    def __init__(self, shown: Any, of: int):
        self._shown = shown
        self._all = shown.add_task("all steps", total=of)
        self._one = shown.add_task("", total=None, visible=False)

    def step(self, step: "Step", number: int, of: int) -> None:
        """A step begins; those before it are done."""
        self._shown.console.print(f"[{number} of {of}] {step.name}", markup=False)
        self._shown.update(self._all, completed=number - 1)
        self._shown.reset(self._one, total=None, visible=True, description=step.name)

    def progress(self, title: str, total: int, done: int) -> None:
        """How far it is."""
        self._shown.update(self._one, description=title, total=total, completed=done)

    def words(self, line: str) -> None:
        """What it says."""
        self._shown.console.print(f"    {line}", markup=False, soft_wrap=True)


@contextmanager
def _screen(steps: int) -> Iterator[_Screen]:
    from vllm_judge.cli.screen import bars

    with bars() as shown:
        yield _Screen(shown, steps)
