"""A speculative config with a judge, in which any of vLLM's own keys holds anything: the configuration is made,
or refused in one short sentence of our own. Bytes of files: tests/unit/test_untrusted_files.py.

It would catch: an exception of vLLM's or pydantic's that gets through, a sentence as long as what was given, or on
several lines, or one that no terminal can print.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny
from vllm.engine.arg_utils import EngineArgs

from vllm_judge.engine import hooks
from vllm_judge.errors import JudgeConfigError

KEYS = [
    *("method", "model", "num_speculative_tokens", "prompt_lookup_max", "rejection_sample_method", "quantization"),
    *("draft_tensor_parallel_size", "disable_padded_drafter_batch", "num_speculative_tokens_per_batch_size"),
    *("revision", "judge", "unknown", "\ud800\n" + "x" * 3000),
]
VALUES = [None, True, -1, 0, 1e308, float("nan"), 10**400, "", "x" * 3000, "\ud800", "a\nb", [], [1], {}, {"a": [[]]}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hooks.install()
    root = tmp_path_factory.mktemp("models")
    tiny.make_target(root / "target")
    tiny.make_head(root / "judge", 0.0)
    return root


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key)[:30])
def test_anything_in_a_speculative_config_is_taken_or_refused_in_a_sentence(models, key):
    refused = 0
    for value in VALUES:
        config: dict[str, Any] = {"method": "ngram", "num_speculative_tokens": 4}
        config |= {"judge": {"model": str(models / "judge")}, key: value}
        args = EngineArgs(str(models / "target"), dtype="float32", enforce_eager=True, speculative_config=config)
        try:
            args.create_engine_config()
        except JudgeConfigError as error:
            refused += 1
            sentence = str(error)
            assert len(sentence) < 1500 and len(sentence.splitlines()) == 1 and sentence.encode(), sentence[:300]
    assert refused
