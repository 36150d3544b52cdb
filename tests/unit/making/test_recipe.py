"""Recipes: what is refused of one and how, and that those of recipes/ can be planned, offline.

It would catch: a misspelt key that is passed over, a default that `--show` does not show, a path relative to where the
command was called, a plan that needs a model or the Hub.
"""

import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.errors import JudgeError
from vllm_judge.making.plan import steps
from vllm_judge.making.recipe_file import read_recipe, show

RECIPES = Path(__file__).parents[3] / "recipes"
TRIED = ("demo", "smollm2-135m")
LEAST = "target: T\ndraft: D\nquestions: gsm8k\n"


def read(folder: Path, text: str):
    file = folder / "recipe.yaml"
    file.write_text(text)
    return read_recipe(file)


REFUSED = {
    "target: T\ntarget: U\n": r"recipe.yaml is not YAML that a recipe may be: line 2: target is given twice",
    "target: !!python/object/apply:os.system [ls]\n": r"1: a value of type python/object/apply:os\.system, where",
    "- target\n": "must hold the keys of a recipe, such as target, found list",
    LEAST + "treshold: 1\n": r"recipe.yaml: treshold is unknown: did you mean thresholds\.",
    LEAST + "head: {featurs: both}\n": r"head: featurs is unknown: did you mean features\.",
    "draft: D\nquestions: gsm8k\n": r"target is missing: give it",
    LEAST + "max_tokens: yes\n": r"max_tokens should be a valid integer, found True\.",
    LEAST + "max_accuracy_drop: -1\n": r"max_accuracy_drop should be greater than or equal to 0, found -1\.",
    LEAST + "dtype: int8\n": r"dtype should be 'auto', 'float32', 'bfloat16' or 'float16', found 'int8'\.",
    LEAST + "labels: minne\n": r"labels\[0\] .*'minne'.*'mine'",
    LEAST + "labels: {by: llm, model: M}\n": r"labels\[0\]\.endpoint is missing",
    LEAST + "labels: {by: llm, model: M, endpoint: E}\n": r"answers is missing: labels by llm are of answers",
    LEAST + "answers: [{by: draft}]\n": r"answers are read by none of labels",
    LEAST + "drafter: {method: ngram}\n": r"draft or drafter: give one of the two",
    "target: T\nquestions: gsm8k\ndrafter: {method: ngram}\n": r"labels\[0\]\.draft is missing",
    "target: T\nquestions: gsm8k\ndrafter: {judge: {}}\n": r"drafter\.judge is what `make` finds out: leave it out",
    "target: ./T\ndraft: D\nquestions: gsm8k\n": r"target is \./T, and there is no .*T: mend the path",
    LEAST.replace("gsm8k", "my.jsonl"): r"questions\[0\]\.source is my\.jsonl, and there is no .*my\.jsonl",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text.splitlines()[-1])
def test_a_wrong_recipe_is_refused_in_a_sentence(text, tmp_path):
    with pytest.raises(JudgeError, match=REFUSED[text]) as refused:
        read(tmp_path, text)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


def test_show_prints_a_recipe_that_is_the_same_with_every_default(tmp_path):
    recipe = read(tmp_path, LEAST)
    shown = show(recipe)
    assert "max_accuracy_drop: 1.0" in shown and "num_speculative_tokens:\n- 4\n" in shown
    assert read(tmp_path, shown) == recipe


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in ("target", "draft", "gsm8k", "other"):
        (home / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    answers = (
        "answers: [{by: target}, {by: other}, {by: other, endpoint: E}]\nlabels: {by: function, function: 'm:f'}\n"
    )
    recipe = read(home, f"target: target\ndraft: D\nquestions: gsm8k\n{answers}")
    assert (recipe.target, recipe.draft, recipe.title) == (str(home / "target"), "D", "target-judge")
    assert recipe.questions[0].source == "gsm8k", "what is known by name stays what it is, and so do roles"
    assert [one.by for one in recipe.answers] == ["target", str(home / "other"), "other"]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_can_be_planned_offline_and_start_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(subprocess, "Popen", None)
    done = CliRunner().invoke(app, ["make", str(recipe), "--plan", "-o", str(tmp_path / "head")])
    assert done.exit_code == 0, done.output
    for command in ("court questions", "train hidden-states", "train fit", "calibrate", "tune"):
        assert command in done.output
    assert "unknown until first answers are timed" in done.output
    assert not any(tmp_path.iterdir())
    if recipe.stem not in TRIED:
        assert recipe.read_text().startswith("# Untried")
    if recipe.stem != "demo":
        assert "not here, will be fetched" in done.output


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_step_is_a_command_that_is_taken(recipe, tmp_path):
    for step in steps(read_recipe(recipe), tmp_path / "work", recipe.parent, tmp_path / "head"):
        words, name = step.command, "vllm-judge"
        for word in words:  # what an earlier step makes
            if word.startswith(str(tmp_path)) and not Path(word).exists():
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                Path(word).touch() if word.endswith(".jsonl") else Path(word).mkdir(exist_ok=True)
        command: click.Command = typer.main.get_command(app)
        while isinstance(command, click.Group):
            name, *words = words
            command = command.commands[name]
        command.make_context(name, list(words))


def test_options_take_the_place_of_a_recipe(tmp_path):
    command = ["make", "--target", "T", "--draft", "D", "--questions", "gsm8k", "--max-accuracy-drop", "1"]
    shown = CliRunner().invoke(app, [*command, "--show"])
    assert shown.exit_code == 0 and read(tmp_path, shown.output) == read(tmp_path, LEAST)
    both = CliRunner().invoke(app, [*command, "recipe.yaml"])
    assert (both.exit_code, "give a recipe, or --target" in both.output) == (1, True)


def test_a_recipe_is_read_without_what_takes_seconds():
    code = (
        "import sys, vllm_judge.making.plan, vllm_judge.making.recipe_file; print({'torch', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr
