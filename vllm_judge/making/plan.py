"""The steps that a recipe asks for, in order; each is a command that could be typed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_judge.making.recipe import Answers, ByFunction, ByModel, Imported, Mined, Options, Recipe
from vllm_judge.making.step import OUTPUT, PROMISE, SPEED, Step, Steps, lines


def steps(recipe: Recipe, work: Path, home: Path, output: Path) -> list[Step]:
    """All steps from questions to the head's folder, and to the Hub where the recipe says so.

    Args:
        recipe: what is wanted.
        work: the folder for all that is made on the way.
        home: the folder that commands run in, the recipe's.
        output: the head's folder.
    """
    return _Planner(recipe, Steps(work.resolve(), home.resolve()), output.resolve()).all()


@dataclass
class _Planner:
    recipe: Recipe
    made: Steps
    output: Path

    def all(self) -> list[Step]:
        recipe = self.recipe
        questions = [self._questions(number) for number in range(len(recipe.questions))]
        asked = sum(count for _, count in questions if count) or None
        files = [file for file, _ in questions]
        answered = [self._answers(one, file, count) for file, count in questions for one in recipe.answers]
        labelled = [court for one in recipe.labels for court in self._labelled(one, questions, answered)]
        heads = self._heads([str(court) for court in labelled])
        numbers = sorted(set(recipe.num_speculative_tokens))
        calibrated = [self._calibrated(files, heads, number, asked) for number in numbers]
        self._tuned(files, [str(head) for group in calibrated for head in group])
        if push := recipe.push:
            words = ["push", str(self.output), push.repository, *(["--private"] if push.private else [])]
            words += _options(target=push.target)
            self.made.add("send it to the Hub", words, "push", output=self.output, count=1, unit="head")
        return self.made.steps

    def _questions(self, number: int) -> tuple[Path, int | None]:
        asked = self.recipe.questions[number]
        words = ["court", "questions", asked.source, "-o", OUTPUT, *_options(held_out=self.recipe.held_out)]
        words += _options(**asked.model_dump(mode="json", exclude={"source"}))
        name = f"questions of {_short(asked.source)}"
        inputs = [asked.source]
        file = self.made.add(name, words, "questions.jsonl", inputs=inputs, count=asked.limit, unit="questions")
        return file, lines(file) or asked.limit

    def _answers(self, who: Answers, questions: Path, count: int | None) -> tuple[Path, int | None]:
        recipe = self.recipe
        roles = {"draft": (recipe.draft, recipe.engine.draft), "target": (recipe.target, recipe.engine.target)}
        model, engine = roles.get(who.by, (who.by, {}))
        words = ["court", "answers", str(questions), "-o", OUTPUT, "--model", str(model)]
        words += ["--samples", str(who.samples), "--max-tokens", str(recipe.max_tokens)]
        for temperature in who.temperatures:
            words += ["--temperature", f"{temperature:g}"]
        how = ["--engine", self._engine(engine)]
        if who.endpoint:
            how = ["--endpoint", who.endpoint, "--concurrency", str(recipe.requests_at_a_time)]
        each = sum(who.samples if temperature else 1 for temperature in who.temperatures)
        total = count and count * each
        name = f"answers of {_short(str(model))}"
        inputs = [str(model), recipe.dtype]
        return self.made.add(name, words, "answers.jsonl", how=how, inputs=inputs, count=total), total

    def _labelled(
        self,
        way: Mined | ByModel | ByFunction | Imported,
        questions: Sequence[tuple[Path, int | None]],
        answered: Sequence[tuple[Path, int | None]],
    ) -> Iterator[Path]:
        recipe, add = self.recipe, self.made.add
        if isinstance(way, Imported):
            words = ["label", "import", way.format, *way.files, "-o", OUTPUT]
            words += ["--tokenizer", recipe.target] if way.format == "autojudge" else []
            yield add("imported labels", words, "imported.jsonl", inputs=way.files)
        elif isinstance(way, Mined):
            draft = str(way.draft or recipe.draft)
            how = ["--engine", self._engine(recipe.engine.target), "--draft-engine", self._engine(recipe.engine.draft)]
            for file, count in questions:
                words = ["label", way.by, str(file), "-o", OUTPUT, "--target", recipe.target, "--draft", draft]
                words += ["--max-tokens", str(recipe.max_tokens), *self._template()]
                named: dict[str, Any] = {
                    "inputs": self._inputs(recipe.target, draft),
                    "count": count,
                    "unit": "questions",
                }
                yield add(f"labels, {way.by}", words, f"{way.by}.jsonl", how=how, **named)
        elif isinstance(way, ByFunction):
            source = way.function.partition(":")[0].replace(".", "/") + ".py"
            for file, count in answered:
                words = ["label", "function", str(file), way.function, "-o", OUTPUT]
                yield add("labels by function", words, "labelled.jsonl", inputs=[source], count=count)
        else:
            for file, count in answered:
                words = ["label", "answers", str(file), "-o", OUTPUT]
                checked = add("check of final answers", words, "checked.jsonl", count=count)
                words = ["label", "llm", str(checked), "-o", OUTPUT, "--model", way.model]
                how = ["--endpoint", way.endpoint, "--concurrency", str(recipe.requests_at_a_time)]
                name = f"mistakes marked by {_short(way.model)}"
                yield add(name, words, "labelled.jsonl", how=how, count=count)

    def _heads(self, labelled: Sequence[str]) -> list[Path]:
        recipe, how = self.recipe, self.recipe.head
        words = ["train", "hidden-states", *labelled, "-o", OUTPUT, "--target", recipe.target]
        words += [*_options(dtype=recipe.dtype, store=how.store, held_out=recipe.held_out), *self._template()]
        words += ["--wrong-after-mistake"] if how.wrong_after_mistake else []
        engine = ["--engine", json.dumps(recipe.engine.target)]
        inputs = self._inputs(recipe.target)
        states = self.made.add("hidden states", words, "states", how=engine, inputs=inputs, unit="shards")
        words = ["train", "fit", str(states), *(["--balance-positions"] if how.balance_positions else [])]
        for one in how.features:
            words += ["-o", f"{OUTPUT}/{one}", "--features", str(one)]
        heads = self.made.add("fit", words, "heads", unit="fits")
        return [heads / str(one) for one in how.features]

    def _calibrated(
        self, questions: Sequence[Path], heads: Sequence[Path], number: int, asked: int | None
    ) -> list[Path]:
        recipe = self.recipe
        drafter = json.dumps(recipe.speculative_config)
        decoding = ["calibrate", *map(str, questions), "--target", recipe.target]
        decoding += ["--draft", recipe.draft] if recipe.draft else ["--speculative-config", drafter]
        decoding += ["--num-speculative-tokens", str(number), "--max-new-tokens", str(recipe.max_tokens)]
        decoding += [*self._template(), "--engine", self._engine(recipe.engine.serve)]
        for head in heads:
            decoding += ["--head", str(head)]
        inputs = self._inputs(recipe.target, recipe.draft or "")
        # Another promise or threshold finds the answers that are there.
        answers = self.made.place("decoded", decoding, inputs)
        words = [*decoding, "-o", str(answers), "--max-accuracy-drop", f"{recipe.max_accuracy_drop:g}"]
        words += _options(limit=recipe.max_calibration_questions)
        for threshold in recipe.thresholds:
            words += ["--threshold", f"{threshold:g}"]
        for head in heads:
            words += ["--into", f"{OUTPUT}/{head.name}"]
        held_out = asked and round(asked * recipe.held_out)
        if limit := recipe.max_calibration_questions:
            held_out = min(held_out or limit, limit)
        made = self.made.add(
            f"promise, {number} drafts",
            words,
            f"calibrated-{number}",
            inputs=inputs,
            pace=PROMISE,
            count=held_out and held_out * (1 + len(heads) * len(set(recipe.thresholds))),
            watched=answers,
        )
        return [made / head.name for head in heads]

    def _tuned(self, questions: Sequence[Path], heads: Sequence[str]) -> None:
        recipe = self.recipe
        engine = self._engine(recipe.engine.serve)
        words = ["tune", *heads, "--target", recipe.target, *self._template(), "--engine", engine]
        words += ["--max-new-tokens", str(recipe.max_tokens)]
        for file in questions:
            words += ["--questions", str(file)]
        for option, values in (("--concurrency", recipe.concurrency), ("--strict-drafts", recipe.strict_drafts)):
            words += [word for one in values for word in (option, str(one))]
        speeds = self.made.place("speeds.jsonl", words, ())
        words += ["-o", str(speeds), "--into", str(self.output)]
        engines = 1 + len(heads) + len({*recipe.strict_drafts} - {*recipe.num_speculative_tokens})
        self.made.add(SPEED, words, "speed", output=self.output, count=engines, unit="engines")

    def _engine(self, options: Options) -> str:
        return json.dumps({"dtype": self.recipe.dtype.value, **options})

    def _template(self) -> list[str]:
        return _options(chat_template=self.recipe.chat_template)

    def _inputs(self, *models: str) -> list[str]:
        return [*models, self.recipe.chat_template or ""]


def _options(**values: Any) -> list[str]:
    """Options of a command line; None is none."""
    return [
        word
        for name, value in values.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value))
    ]


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name
