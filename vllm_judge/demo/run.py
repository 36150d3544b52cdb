"""`vllm-judge demo`: the same problems by the target alone, by strict verification, and by the judge."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vllm_judge.demo import trio
from vllm_judge.demo.choices import World
from vllm_judge.demo.engine import Engine
from vllm_judge.demo.outcome import Outcome
from vllm_judge.demo.world import problems
from vllm_judge.measuring.provenance import about
from vllm_judge.measuring.statistics import Estimate, accuracy, mcnemar, paired_difference
from vllm_judge.progress import bar

SPLIT = "test"  # never seen in training
MAX_NUM_SEQS = 64
PLAIN = "target alone"


def configurations(
    models: trio.Trio, heads: Sequence[str], num_speculative_tokens: int | None
) -> dict[str, dict[str, Any] | None]:
    """The speculative config of every run, by the name it has in the table."""
    judged = {f"judge, {head}": models.judge_config(num_speculative_tokens, head) for head in heads}
    return {PLAIN: None, "strict": models.strict_config(num_speculative_tokens)} | judged


def measure(
    n: int, seed: int, heads: Sequence[str], num_speculative_tokens: int | None, world: World = World.EASY
) -> Iterator[tuple[str, Outcome]]:
    """Runs every configuration on the same `n` fresh problems, each in an engine of its own; yields as they finish.

    Raises:
        JudgeError: an engine did not start or died.
    """
    asked, models = problems(n, seed, SPLIT, world), trio.TRIOS[world]
    for name, speculative_config in configurations(models, heads, num_speculative_tokens).items():
        with bar(f"loading, {name}", 1) as advance:
            engine = Engine(speculative_config, MAX_NUM_SEQS, models.target)
            advance()
        with engine:
            with bar(f"solving, {name}", 1) as advance:
                outcome = engine.solve(asked)
                advance()
            yield name, outcome


def write_json(path: Path, outcomes: dict[str, Outcome], settings: dict[str, Any]) -> None:
    """Writes the table's figures, with what they were measured with."""
    baseline = outcomes[PLAIN].correct
    runs = {
        name: outcome.figures()
        | {
            "accuracy_95": _interval(accuracy(outcome.correct)),
            "minus_target": paired_difference(outcome.correct, baseline).value,
            "minus_target_95": _interval(paired_difference(outcome.correct, baseline)),
            "mcnemar_p": mcnemar(outcome.correct, baseline),
        }
        for name, outcome in outcomes.items()
    }
    path.write_text(json.dumps({**about(settings), "runs": runs}, indent=2) + "\n", encoding="utf-8")


def _interval(estimate: Estimate) -> list[float]:
    return [estimate.low, estimate.high]
