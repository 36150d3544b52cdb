"""Fitting heads: on tokens whose labels follow a planted direction, and the features on a random target.

It would catch: a scaler that is not folded in, evidence weights left out or in another order, inverted labels, rates
of the wrong label, a hidden state of the wrong row, a second norm.
"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import LlamaConfig, LlamaForCausalLM

from vllm_judge.head import JudgeHead
from vllm_judge.kernels.reference import evidence
from vllm_judge.training.features import token_features
from vllm_judge.training.fit import MAX_ITERATIONS, Rates, Tokens, auc, fit_head, rates, with_config

HIDDEN = 24


def planted(n: int = 4000, seed: int = 0) -> tuple[Tokens, torch.Tensor]:
    """Tokens of badly scaled features, right where a planted direction of the whitened features says so; and it."""
    generator = torch.Generator().manual_seed(seed)
    whitened = torch.randn(n, HIDDEN + 4, generator=generator)
    direction = torch.randn(HIDDEN + 4, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(n, generator=generator)
    right = whitened @ direction + 0.5 * noise > -4.0  # mistakes are rare
    scale = torch.logspace(-2, 2, HIDDEN + 4)
    features = whitened * scale + 3.0 * scale
    return Tokens(features[:, :HIDDEN], features[:, HIDDEN:], right), direction / scale


@pytest.mark.parametrize("use_evidence", [False, True])
def test_folding_the_scaler_changes_no_score(use_evidence):
    tokens, _ = planted()
    head = fit_head(tokens, use_evidence)
    features = torch.cat([tokens.hidden, tokens.evidence], 1) if use_evidence else tokens.hidden
    scaler = StandardScaler().fit(features.double().numpy())
    regression = LogisticRegression(class_weight="balanced", max_iter=MAX_ITERATIONS)
    regression.fit(scaler.transform(features.double().numpy()), tokens.right.numpy())
    expected = regression.decision_function(scaler.transform(features.double().numpy()))
    np.testing.assert_allclose(head.score(tokens.hidden, tokens.evidence).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_planted_direction_is_recovered():
    tokens, direction = planted()
    head = fit_head(tokens, use_evidence=True)
    scale = torch.cat([tokens.hidden, tokens.evidence], 1).std(0)
    found = torch.cat([head.weight, head.evidence]) * scale
    assert torch.cosine_similarity(found, direction * scale, dim=0) > 0.98
    fresh, _ = planted(seed=1)
    assert auc(head, fresh) > 0.98
    assert auc(head, fresh) > auc(fit_head(tokens, use_evidence=False), fresh)


def test_rates_count_each_label_by_itself():
    head = JudgeHead(1).requires_grad_(False)
    head.weight.fill_(1.0)
    hidden = torch.tensor([[-9.0], [0.1], [9.0], [-9.0], [9.0]])
    tokens = Tokens(hidden, torch.zeros(5, 4), torch.tensor([True, True, True, False, False]))
    measured = {rate.threshold: rate for rate in rates(head, tokens)}
    assert measured[0.5] == Rates(0.5, pytest.approx(2 / 3), 0.5)
    assert measured[0.9] == Rates(0.9, pytest.approx(1 / 3), 0.5)


def test_a_described_head_is_the_same_head_on_disk(tmp_path):
    tokens, _ = planted(n=500)
    head = fit_head(tokens, use_evidence=True)
    with_config(head, threshold=0.7, target_model="target", provenance={"auc": 0.9}).save_pretrained(tmp_path)
    loaded = JudgeHead.from_pretrained(tmp_path)
    assert (loaded.threshold, loaded.target_model, loaded.provenance) == (0.7, "target", {"auc": 0.9})
    assert torch.equal(loaded.score(tokens.hidden, tokens.evidence), head.score(tokens.hidden, tokens.evidence))


def test_features_are_the_own_row_and_the_evidence_of_the_row_before():
    torch.manual_seed(0)
    shape = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    target = LlamaForCausalLM(LlamaConfig(vocab_size=50, **shape, initializer_range=0.3)).eval()
    torch.nn.init.uniform_(target.model.norm.weight, 0.5, 2.0)
    prompt, answer = [3, 1, 4, 1, 5], [9, 2, 6]
    hidden, seen = token_features(target, prompt, answer)
    assert hidden.shape == (3, HIDDEN)
    for i in range(3):
        with torch.inference_mode():
            before = target(torch.tensor([prompt + answer[:i]]), output_hidden_states=True)
            own = target(torch.tensor([prompt + answer[: i + 1]]), output_hidden_states=True)
        torch.testing.assert_close(hidden[i], own.hidden_states[-1][0, -1], atol=1e-4, rtol=1e-4)
        expected = evidence(before.logits[0, -1:], torch.tensor(answer[i : i + 1]))
        torch.testing.assert_close(seen[i : i + 1], expected, atol=1e-4, rtol=1e-4)
