"""The differential campaign (scripts/fuzz_verify.py), a short one; and that it finds what it is there to find.

The campaign itself would catch any decision, token or count of the kernels or of the V1 path that is not the oracle's,
and, where a judge rejects all, not vLLM's own. Seeds 0 and 5 of V1 once differed: a boost that lowered a logit of +inf,
and a count of a token that the target had said in the draft's place.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fuzz import distribution

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("path", "steps", "sampled", "cases"), [("kernels", 3, 150, 100), ("v1", 6, 20_000, 400)])
def test_a_short_campaign_finds_no_difference(tmp_path, path, steps, sampled, cases):
    output = tmp_path / "found.json"
    options = ["--path", path, "--steps", str(steps), "--sampled", str(sampled), "-o", str(output)]
    command = [sys.executable, str(ROOT / "scripts/fuzz_verify.py"), *options]
    campaign = subprocess.run(command, capture_output=True, text=True)
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr[-3000:]
    found = json.loads(output.read_text())["paths"][path]
    assert (found["seeds"], found["differences"]) == ([[0, steps]], [])
    name = {"kernels": "kernels", "v1": "V1"}[path]
    same = sum(number for kind, number in found["cases"].items() if kind.startswith(f"{name} = oracle, same"))
    assert same > cases and len(found["p_values"]) == 6
    assert any(f"{name} with a rejecting head" in kind for kind in found["cases"])


def test_a_placeholder_is_no_token_that_the_target_would_have_chosen_in_shadow_either():
    """Seed 446: the target's choice was token 0, which a placeholder is read as where -1 would be no index."""
    command = [sys.executable, str(ROOT / "scripts/fuzz_verify.py"), "--path", "v1", "--case", "446"]
    campaign = subprocess.run(command, capture_output=True, text=True)
    assert campaign.returncode == 0 and "192 cases, 0 differences" in campaign.stdout, campaign.stdout


def test_a_verifier_that_is_wrong_is_found_out():
    """Without its boost V1 rejects what only the judge accepts; without protected tokens, or the border of reasoning,
    it lets them pass."""
    code = """
import torch
from fuzz import v1
from vllm_judge.engine import v1 as engine
from vllm_judge.engine.v1_thinking import ThinkingStates
boost, engine.BOOST = engine.BOOST, -1e8
without_boost = sum(len(v1.run(seed)[1]) for seed in range(3))
engine.BOOST, allowed = boost, engine.allowed
engine.allowed = lambda logits, drafts, protected: allowed(logits, drafts, torch.zeros_like(protected))
without_protection = sum(len(v1.run(seed)[1]) for seed in range(6))
engine.allowed = allowed
ThinkingStates.inside = lambda self, drafts: torch.ones_like(drafts, dtype=torch.bool)
print(without_boost, without_protection, sum(len(v1.run(seed)[1]) for seed in range(8)))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests", check=True)
    without_boost, without_protection, without_border = map(int, child.stdout.splitlines()[-1].split())
    assert without_boost > 5 and without_protection > 0 and without_border > 0


def test_a_distribution_that_is_another_is_found_out():
    """Tokens of the draft's distribution are what a head that accepts all must give, and no other head."""

    def drafts(seed: int, kind: object, batch: object) -> torch.Tensor:
        return batch.inputs["draft_sampled"][1::2].long()

    found = distribution.p_values(drafts, 1, 20_000)
    assert {name for name, p in found.items() if p > 1e-4} == {
        "accepts all, draft probabilities",
        "accepts all, no draft probabilities",
    }


@pytest.mark.parametrize("with_draft_logits", [False, True])
def test_what_must_leave_is_the_targets_distribution_where_all_are_rejected_and_the_drafts_where_none_is(
    with_draft_logits,
):
    target, draft = distribution.distributions(3)
    rejects, accepts = (
        distribution.expected(target, draft, distribution.JUDGED[head], with_draft_logits=with_draft_logits)
        for head in ("rejects all", "accepts all")
    )
    torch.testing.assert_close(rejects, target.double().softmax(-1), atol=1e-12, rtol=0)
    torch.testing.assert_close(accepts, draft.double().softmax(-1), atol=1e-12, rtol=0)
