"""The output layer read from a checkpoint: only where it is all that lies between a state and its logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from chat_model import make_chat_model
from transformers import AutoModelForCausalLM

from vllm_judge.errors import JudgeError
from vllm_judge.training.output_matrix import output_matrix


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_the_matrix_that_the_model_multiplies_by(tmp_path, tied):
    folder = make_chat_model(tmp_path / "target", tied=tied)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(output_matrix(str(folder)), model.get_output_embeddings().weight)


def changed(folder: Path, **config: Any) -> str:
    path = tiny.make_target(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"architectures": ["MiniCPMForCausalLM"]}, "MiniCPMForCausalLM, and they"),
        ({"logit_scale": 0.5}, "LlamaForCausalLM with logit_scale, and they"),
        ({"final_logit_softcapping": 30.0}, "LlamaForCausalLM with final_logit_softcapping, and they"),
    ],
)
def test_more_than_a_matrix_is_refused_with_the_way_that_works(tmp_path, config, named):
    with pytest.raises(JudgeError) as caught:
        output_matrix(changed(tmp_path / "target", **config))
    assert named in str(caught.value) and "leave out --url, and vLLM in this process reads them" in str(caught.value)
