"""Published labels: ProcessBench's own files, and files in AutoJudge's format.

It would catch: a span that is not the wrong step, a right final answer taken for a right answer, an object unpickled,
a prompt that would be rendered twice, a mistake on the target's token instead of the draft's.
"""

import json
import pickle
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.tokencourt.court import Verdict, read_court

SHARED = Path(__file__).parents[4] / "shared" / "data"
PROCESSBENCH = [SHARED / f"processbench_{name}.json" for name in ("gsm8k", "math")]


def label_import(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["label", "import", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.skipif(not PROCESSBENCH[0].exists(), reason="ProcessBench's files are not in ../shared/data")
def test_processbench_gives_1400_answers_with_their_spans(tmp_path):
    out = tmp_path / "court.jsonl"
    code, output = label_import("processbench", *PROCESSBENCH, "-o", out)
    assert (code, output.split(" in ")[0]) == (0, "1400 answers")
    answers = {answer.id: answer for answer in read_court(out)}
    rows = [row for path in PROCESSBENCH for row in json.loads(path.read_text())]
    assert len(answers) == len(rows) == 1400
    for row in rows:
        answer = answers[f"processbench/{row['id']}"]
        assert all(step in answer.answer for step in row["steps"])
        assert (answer.verdict == Verdict.right) == (row["label"] == -1)
        if answer.mistake:
            assert answer.answer[answer.mistake.start : answer.mistake.end] == row["steps"][row["label"]]
    assert sum(answer.mistake is not None for answer in answers.values()) == 207 + 594
    lucky = [a for a in answers.values() if a.verdict == Verdict.wrong and a.metadata["final_answer_correct"]]
    assert len(lucky) == 7 + 94


@pytest.mark.parametrize(
    ("record", "finding"),
    [
        ({"label": 2}, "record 0: label 2 names none of its steps."),
        ({"steps": "one"}, "record 0: steps: Input should be a valid list, found 'one'."),
        ({"label": None}, "record 0: label: "),
        ({"steps": ["a", ""]}, "record 0: steps.1: "),
        ({"steps": ["a \ud83d"]}, "record 0: steps.0: holds half a character"),
    ],
)
def test_a_file_that_is_not_processbench_is_one_sentence(tmp_path, record, finding):
    row = {"id": "1", "generator": "g", "problem": "p", "steps": ["a", "b"], "label": 0, "final_answer_correct": False}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{**row, **record}]))
    code, output = label_import("processbench", path, "-o", tmp_path / "court.jsonl")
    assert code == 1
    assert finding in output
    assert not (tmp_path / "court.jsonl").exists()


SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
PROMPT = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "How many are 2 and 2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
SEQUENCE = "Well, 2 and 2 makes 4 😀."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """With Llama 3's special tokens; where it lies is its name."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [SEQUENCE] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=SPECIAL, eos_token=SPECIAL[-1])
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def mined(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """A record as AutoJudge writes it: " makes" is the draft's, " 2" for " 4" would change the answer, and so would the
    end of the sequence or the first byte of a character."""
    ids = tokenizer.encode(PROMPT + SEQUENCE + "<|eot_id|>", add_special_tokens=False)
    begin = len(tokenizer.encode(PROMPT, add_special_tokens=False))

    def first(text: str) -> int:
        return tokenizer.encode(text, add_special_tokens=False)[0]

    makes, four = ids.index(first(" makes"), begin), ids.index(first(" 4"), begin)
    return {
        "changed_token_indices": [
            (makes, False, first(" is"), first(" makes")),
            (four, True, first(" 4"), first(" 2")),
            (four + 1, True, ids[four + 1], ids[-1]),
            (four + 1, True, ids[four + 1], tokenizer.convert_tokens_to_ids("ð")),
        ],
        "colored_tokens": None,
        "current_response": torch.tensor([ids]),
        "draft_answer": ["5"],
        "target_answer": ["4"],
        "hiddens": [torch.zeros(8)] * 4,
        "id": 7,
    }


def test_autojudge_gives_the_final_sequence_and_every_important_token(tmp_path, tokenizer):
    path, out = tmp_path / "gsm8k.pt", tmp_path / "court.jsonl"
    torch.save([mined(tokenizer)], path)
    code, output = label_import("autojudge", path, "--tokenizer", tokenizer.name_or_path, "-o", out)
    assert code == 0, output
    assert "1 important tokens left out: the token is not of the answer's text" in output
    assert "1 important tokens left out: the token is a part of a character" in output
    final, important = read_court(out)
    assert [(m.role, m.content) for m in final.messages] == [("system", "Be brief."), ("user", "How many are 2 and 2?")]
    assert (final.id, final.answer, final.verdict) == ("autojudge/gsm8k/7/final", SEQUENCE, Verdict.right)
    assert important.answer == "Well, 2 and 2 makes 2"
    assert important.answer[important.mistake.start :] == " 2"
    assert important.labelled_from == important.mistake.start
    assert important.messages == final.messages


def test_autojudge_needs_the_tokenizer_of_its_models(tmp_path, tokenizer):
    path, out = tmp_path / "gsm8k.pt", tmp_path / "court.jsonl"
    record = mined(tokenizer)
    position, important, _, draft = record["changed_token_indices"][1]
    record["changed_token_indices"][1] = (position, important, draft + 1, draft)
    torch.save([record], path)
    code, output = label_import("autojudge", path, "--tokenizer", tokenizer.name_or_path, "-o", out)
    assert code == 1
    assert "the sequence does not hold the target's token" in output


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))])
def test_nothing_in_a_file_is_run(tmp_path, tokenizer, save):
    path, trap = tmp_path / "gsm8k.pt", tmp_path / "sprung"
    save([{**mined(tokenizer), "extra": Trap(trap)}], path)
    code, output = label_import("autojudge", path, "--tokenizer", tokenizer.name_or_path, "-o", tmp_path / "c.jsonl")
    assert code == 1
    assert output.startswith(f"vllm-judge: {path} is refused: only a file of tensors and plain containers")
    assert not trap.exists()
