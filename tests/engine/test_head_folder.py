"""A head's folder as the whole speculative config of a real engine.

It would catch: a folder that reaches vLLM as a name of its own, a draft or a head from another place, a judge that is
lost on the way.
"""

import shutil
from pathlib import Path

import tiny
from environments import NUM_DRAFTS

from vllm_judge.judge_json import write_judge_json


def test_a_heads_folder_serves_what_it_stands_for(models, engines, tmp_path):
    folder = Path(shutil.copytree(models / "random", tmp_path / "target-judge"))
    drafter = {"method": "draft_model", "model": str(models / "draft"), "num_speculative_tokens": NUM_DRAFTS}
    write_judge_json(folder, drafter)
    prompts, greedy = tiny.prompts(6), {"temperature": 0.0, "max_tokens": 24}
    answers, counts = engines("v1", speculative_config=str(folder)).counted(prompts, greedy)
    # The gauge names the head by where it lies; all else is the same.
    named = {name.replace(str(folder), str(models / "random")): value for name, value in counts.items()}
    assert named != counts and (answers, named) == engines("v1", "random").counted(prompts, greedy)
    assert counts["judge_only_tokens"] > 0
