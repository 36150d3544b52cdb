"""A judge that is only watched, one that judges a share of the requests, and what is counted of both.

What these tests would catch: a token, a random number or a counter of accepted tokens that shadow changes; a gain that
is not the oracle's; a share that hits the wrong requests; statistics of an answer that do not say which of its tokens
the target did not choose.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from environments import NUM_DRAFTS
from transformers import LlamaForCausalLM
from verified_text import VerifiedText, verified

from vllm_judge import JudgeHead
from vllm_judge.engine.admission import is_judged
from vllm_judge.kernels.verdicts import BUCKET, JUDGE_ONLY, NUM_BUCKETS, OUTCOME_MASK, OUTCOMES, REJECTED, decided

LENGTH = 24
GREEDY = {"temperature": 0.0, "max_tokens": LENGTH}
SEEDED = {"temperature": 0.9, "seed": 7, "max_tokens": LENGTH}
SHADOW = {"extra_args": {"judge_mode": "shadow"}}
OFF = {"extra_args": {"judge": False}}
PROMPTS = tiny.prompts(8)


@pytest.fixture(scope="session")
def oracle(models: Path) -> Callable[..., VerifiedText]:
    """The reference's text of a prompt, cycle by cycle: oracle(prompt, shadow=...)."""
    target, draft = (LlamaForCausalLM.from_pretrained(models / name).eval() for name in ("target", "draft"))
    head = JudgeHead.from_pretrained(str(models / "random"))
    protected = torch.isin(torch.arange(tiny.VOCAB), torch.tensor([0, tiny.EOS, tiny.SPECIAL]))

    def text(prompt: list[int], shadow: bool = False) -> VerifiedText:
        return verified(target, draft, head, prompt, LENGTH, NUM_DRAFTS, protected, ends=[tiny.EOS], shadow=shadow)

    return text


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["tokens"] for answer in answers]


@pytest.mark.every_vllm
@pytest.mark.parametrize("params", [GREEDY, SEEDED, {**SEEDED, "top_p": 0.8, "repetition_penalty": 1.3}])
def test_shadow_gives_the_strict_tokens(engines, runner, params):
    engine = engines(runner, "random")
    strict, counts_strict = engine.counted(PROMPTS, {**params, **OFF})
    shadowed, counts = engine.counted(PROMPTS, {**params, **SHADOW})
    assert tokens(shadowed) == tokens(strict) != tokens(engine.generate(PROMPTS, params))
    assert counts["judge_shadow_gain_tokens"] > counts["judge_only_tokens"] == 0
    for name in ("drafts", "draft_tokens", "accepted_tokens"):
        assert counts[name] == counts_strict[name]
    assert counts["judge_cycles shadow"] == counts["drafts"]
    assert counts["judge_accepted_tokens shadow"] == counts["accepted_tokens"]
    assert not any(count for name, count in counts_strict.items() if "judge" in name)


def expected(texts: list[VerifiedText], mode: str) -> dict[str, float]:
    """What is counted of texts."""
    verdicts = [verdict for text in texts for step in text.steps for verdict in step.verdicts.tolist() if verdict]
    decided = [verdict for verdict in verdicts if verdict & OUTCOME_MASK in (JUDGE_ONLY, REJECTED)]
    return {
        f"judge_cycles {mode}": sum(len(text.steps) for text in texts),
        f"judge_accepted_tokens {mode}": sum(step.num_accepted for text in texts for step in text.steps),
        "judge_shadow_gain_tokens": sum(step.gain for text in texts for step in text.steps),
        "judge_only_tokens": sum(step.judge_only for text in texts for step in text.steps),
        **{
            f"judge_verdicts {mode} {name}": sum(verdict & OUTCOME_MASK == outcome for verdict in verdicts)
            for name, outcome in OUTCOMES.items()
        },
        **{
            f"judge_probabilities {mode} {le}": sum(verdict // BUCKET < bucket for verdict in decided)
            for le, bucket in (("0.05", 1), ("0.5", 10), ("0.95", 19), ("1.0", 20), ("+Inf", 20))
        },
    }


@pytest.mark.every_vllm
@pytest.mark.parametrize("mode", ["judge", "shadow"])
def test_verdicts_gains_and_probabilities_are_the_oracles(engines, runner, oracle, mode):
    texts = [oracle(prompt, shadow=mode == "shadow") for prompt in PROMPTS]
    answers, counts = engines(runner, "random").counted(PROMPTS, {**GREEDY, "extra_args": {"judge_mode": mode}})
    assert tokens(answers) == [text.tokens for text in texts]
    wanted = expected(texts, mode)
    assert {name: counts[name] for name in wanted} == wanted
    assert counts["judge_verdicts judge judge_only"] == counts["judge_only_tokens"]
    assert counts["judge_only_tokens"] == sum(counts[f"judge_only_tokens_per_pos {i}"] for i in range(NUM_DRAFTS))
    assert wanted[f"judge_verdicts {mode} judge_only"] > 0 < wanted[f"judge_verdicts {mode} rejected"]


def judge_only_places(text: VerifiedText) -> list[int]:
    place, found = 1, []  # the first token is the prompt's own pass's
    for step in text.steps:
        accepted = step.verdicts[: step.num_accepted] & OUTCOME_MASK
        found += [place + i for i, outcome in enumerate(accepted.tolist()) if outcome == JUDGE_ONLY]
        place += len(step.tokens)
    return [place for place in found if place < len(text.tokens)]


@pytest.mark.every_vllm
def test_an_answer_says_which_of_its_tokens_only_the_judge_accepted(engines, runner, oracle):
    engine = engines(runner, "random")
    texts = [oracle(prompt) for prompt in PROMPTS]
    wanted = [judge_only_places(text) for text in texts]
    statistics = [answer["statistics"] for answer in engine.generate(PROMPTS, GREEDY, statistics=True)]
    assert [found["judge_only_positions"] for found in statistics] == wanted and any(wanted)
    decisions = [[bucket for step in text.steps for bucket in decided(step.verdicts.tolist())] for text in texts]
    for found, buckets in zip(statistics, decisions, strict=True):
        assert found["judge_probabilities"] == [buckets.count(bucket) for bucket in range(NUM_BUCKETS)]
    assert [found["num_judge_only_tokens"] for found in statistics] == [
        sum(step.judge_only for step in text.steps) for text in texts
    ]
    [first, *_] = engine.generate(PROMPTS, {**GREEDY, **SHADOW}, statistics=True)
    assert (first["statistics"]["num_judge_only_tokens"], first["statistics"]["judge_only_positions"]) == (0, [])


def test_the_share_is_judged_and_the_rest_in_shadow_unless_a_request_says_which(engines, runner, oracle):
    """Offline the ids are 0, 1, 2 ...: those of this engine's requests, in order."""
    engine = engines(runner, "random", section={"share": 0.5})
    judged = [is_judged(str(i), 0.5) for i in range(len(PROMPTS))]
    assert 0 < sum(judged) < len(PROMPTS)
    texts = [oracle(prompt, shadow=not heeded) for prompt, heeded in zip(PROMPTS, judged, strict=True)]
    answers, counts = engine.counted(PROMPTS, GREEDY)
    assert tokens(answers) == [text.tokens for text in texts]
    for mode, heeded in (("judge", True), ("shadow", False)):
        part = [text for text, one in zip(texts, judged, strict=True) if one == heeded]
        assert counts[f"judge_cycles {mode}"] == expected(part, mode)[f"judge_cycles {mode}"] > 0
    said = engine.generate(PROMPTS, {**GREEDY, "extra_args": {"judge_mode": "judge"}})
    assert tokens(said) == [oracle(prompt).tokens for prompt in PROMPTS]
    info = [name for name in counts if name.startswith("judge_info")]
    assert len(info) == 1 and info[0].endswith(" 0.5 everywhere judge 0.5 none")
