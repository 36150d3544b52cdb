"""How targets and heads are loaded for the reference decoder.

It would catch: an attention that leaves out a model's soft cap, and a head that is measured against the hidden size
where the output layer reads another width.
"""

import pytest
import torch
from architectures import ARCHITECTURES, PROJECTED, in_transformers, make_architecture

from vllm_judge import JudgeHead
from vllm_judge.decoding.pair import load_head, load_model
from vllm_judge.errors import HeadError


def test_a_targets_soft_cap_on_attention_is_kept(tmp_path, monkeypatch):
    family, options, change = ARCHITECTURES["gemma2"]
    monkeypatch.setitem(ARCHITECTURES, "gemma2", (family, {**options, "attn_logit_softcapping": 0.5}, change))
    folder = make_architecture("gemma2", tmp_path / "target")
    ids = list(range(3, 20))
    _, logits = in_transformers("gemma2", folder)(ids)
    with torch.inference_mode():
        found = load_model(str(folder), torch.float32)(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=0)


def test_a_head_fits_what_the_output_layer_reads(tmp_path):
    target = load_model(str(make_architecture("opt_projected", tmp_path / "target")), torch.float32)
    JudgeHead(PROJECTED).save_pretrained(tmp_path / "head")
    assert load_head(str(tmp_path / "head"), target.config).hidden_size == PROJECTED
    JudgeHead(64).save_pretrained(tmp_path / "other")
    with pytest.raises(HeadError, match=f"reads 64 numbers, the target has {PROJECTED}"):
        load_head(str(tmp_path / "other"), target.config)
