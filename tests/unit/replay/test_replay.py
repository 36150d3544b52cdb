"""Replayed texts against one forward pass a token, against the reference decoder, and by hand.

It would catch: a hidden state or logits of a neighbouring row, chunks of rows that are put together wrongly, a judge
that accepts special tokens, a cycle that begins one token too early or too late, characters lost between tokens, and a
page that shows other text than was replayed, fetches something, or runs a stranger's script.
"""

import dataclasses
import html
import json
import re
import statistics
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.decoding.decoder import speculative_decode
from vllm_judge.demo.tokenizer import train_tokenizer
from vllm_judge.errors import JudgeError
from vllm_judge.head import logit
from vllm_judge.replay.texts import read_lines, texts_of
from vllm_judge.replay.verifier import Verdicts, Verifier, cycles
from vllm_judge.training import sources
from vllm_judge.training.choices import Dtype


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny.make_target(root / "target")
    tiny.make_draft(root / "target", root / "draft")
    tiny.make_head(root / "head", 0.0, scale=0.3, use_evidence=True)
    return root


@pytest.fixture(scope="module")
def verifier(models: Path) -> Verifier:
    return load(models, "head")


@pytest.fixture(scope="module")
def target(models: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(models / "target").eval()


def load(models: Path, head: str) -> Verifier:
    target = str(models / "target")
    return Verifier.load(target, str(models / head), None, lambda: sources.TransformersSource(target, Dtype.float32))


def verify(verifier: Verifier, prompt: list[int], text: list[int]) -> Verdicts:
    [found] = verifier.verify([(prompt, text)])
    return found


@torch.inference_mode()
def rows(target: LlamaForCausalLM, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and hidden state of the last row, from a pass of its own."""
    output = target.model(torch.tensor([tokens]))
    return target.lm_head(output.last_hidden_state)[0, -1], output.last_hidden_state[0, -1]


def test_every_token_is_judged_at_its_own_row(verifier, target, monkeypatch):
    monkeypatch.setattr(sources, "ROWS", 7)  # several chunks, the last one short
    prompt, text = tiny.prompts(1)[0], tiny.prompts(1, 40, seed=9)[0]
    text[5:9] = [int(rows(target, prompt + text[:5])[0].argmax())] * 4
    threshold = statistics.median(verify(verifier, prompt, text).judge_probability)
    at_median = dataclasses.replace(verifier, threshold=threshold)
    _, found, _ = at_median.verify([(prompt, text[:3]), (prompt, text), (prompt, text[:1])])
    for i, token in enumerate(text):
        logits, _ = rows(target, prompt + text[:i])
        _, hidden = rows(target, prompt + text[: i + 1])
        log_probs = logits.log_softmax(-1)
        top, entropy = log_probs.max(), -(log_probs.exp() * log_probs).sum()
        score = verifier.head.score(hidden, torch.stack([log_probs[token], entropy, top - log_probs[token], top.exp()]))
        assert found.strict[i] == (token == int(logits.argmax()))
        assert found.judge[i] == bool(score > logit(threshold))
        assert found.preferred[i] == int(logits.argmax())
        assert found.probability[i] == pytest.approx(float(log_probs[token].exp()), rel=1e-4)
        assert found.preferred_probability[i] == pytest.approx(float(top.exp()), rel=1e-4)
        assert found.judge_probability[i] == pytest.approx(float(score.sigmoid()), rel=1e-3)
    assert set(found.names) == {"strict", "judge only", "rejected"}


def test_a_text_of_judge_decoding_is_accepted_in_whole_and_its_judge_only_tokens_are_the_decoders(
    verifier, target, models
):
    draft = AutoModelForCausalLM.from_pretrained(models / "draft").eval()
    prompts = tiny.prompts(4)
    answers = speculative_decode(
        target, draft, prompts, num_speculative_tokens=1, max_new_tokens=61, head=verifier.head
    )
    for prompt, decoded in zip(prompts, answers, strict=True):
        names = verify(verifier, prompt, decoded.tokens).names
        assert "rejected" not in names
        assert names.count("judge only") == decoded.judge_only > 0


def test_the_judge_accepts_no_special_token(models):
    tiny.make_head(models / "all", 100.0)
    text = [5, tiny.SPECIAL, 6, tiny.EOS, 7]
    found = verify(load(models, "all"), tiny.prompts(1)[0], text)
    assert found.judge == [True, False, True, False, True]


def test_cycles_restart_after_the_token_that_stands_for_the_targets_own():
    yes, no = True, False
    assert cycles([yes, yes, no, yes, no, no], 4) == [2, 1, 0]
    assert cycles([yes] * 5, 2) == [2, 2], "the third token stands for the bonus token, and ends a cycle"
    assert cycles([no, yes, yes, yes], 2) == [0, 2]
    assert cycles([yes, yes, no, yes], 8) == [2, 1], "the last cycle is cut short by the text's end"


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9))
def test_cycles_use_up_the_text_and_stop_at_the_first_rejection(accepted, drafts):
    start = 0
    for kept in cycles(accepted, drafts):
        assert kept <= drafts
        assert all(accepted[start : start + kept])
        own = start + kept
        assert kept == drafts or own >= len(accepted) or not accepted[own]
        start = own + 1
    assert start in (len(accepted), len(accepted) + 1)


def write(path: Path, *lines: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("text", ["plain words", " Größe: 5 µm\n\n", "a 🙂 b", "日本語 and\ttabs  "])
def test_the_pieces_make_up_the_text(tmp_path, text):
    tokenizer = train_tokenizer(["plain words and tabs"])
    path = write(tmp_path / "texts.jsonl", {"prompt": "a", "text": text})
    [found] = texts_of(path, read_lines(path), tokenizer)
    assert "".join(found.pieces) == text
    assert len(found.pieces) == len(found.token_ids)
    assert found.author == "unnamed"


def test_messages_go_through_the_chat_template(tmp_path):
    tokenizer = train_tokenizer(["plain words"])
    line = {"messages": [{"role": "user", "content": "words"}], "text": "plain"}
    path = write(tmp_path / "texts.jsonl", line)
    [found] = texts_of(path, read_lines(path), tokenizer)
    assert found.prompt == "<|user|>words<|assistant|>"
    assert tokenizer.decode(found.prompt_ids) == found.prompt


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "w5"}', "line 1: give either `prompt` or `messages`."),
        ('{"prompt": "w5"}', "line 1: text: is missing."),
        ('{"messages": [{"content": "w5"}], "text": "w6"}', "line 1: messages.0.role: is missing."),
        ('{"prompt": "w5", "text": "w6 \\ud83d"}', "line 1: text: holds half a character"),
        ("w5", "line 1: not JSON: Expecting value at column 1."),
        ('{"prompt": "w5", "text": " "}', "line 1: the prompt or the text holds no token."),
        (None, "holds no text."),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path, verifier, line, message):
    path = tmp_path / "texts.jsonl"
    path.write_text("" if line is None else line + "\n")
    with pytest.raises((JudgeError, JudgeError), match=re.escape(message)):
        texts_of(path, read_lines(path), verifier.tokenizer)


def test_a_text_beyond_the_targets_context_is_refused(verifier):
    with pytest.raises(JudgeError, match=r"have 513 tokens, and the target reads at most 512\."):
        verify(verifier, [5], [6] * 512)


def test_the_command_writes_numbers_picture_and_a_page_that_needs_nothing_else(models, tmp_path):
    author = "<script>alert(1)</script>"
    texts = [" ".join(f"w{i}" for i in tokens) for tokens in tiny.prompts(3, 30, seed=4)]
    lines = [{"prompt": "w7 w8", "text": text, "author": author} for text in texts]
    path = write(tmp_path / "texts.jsonl", *lines, {"prompt": "w3", "text": "w4", "author": "another"})
    options = ["--target", str(models / "target"), "--head", str(models / "head"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(
        app, ["replay", str(path), "--source", "transformers", "--num-speculative-tokens", "4", *options]
    )
    assert done.exit_code == 0, done.output

    report = json.loads((tmp_path / "out" / "replay.json").read_text())
    first, second = report["authors"]
    assert (first["texts"], first["tokens"], second["tokens"]) == (3, 90, 1)
    assert sum(share["value"] for share in first["share_of_tokens"].values()) == pytest.approx(1.0)
    verdicts = [verdict for text in report["texts"][:3] for verdict in text["verdicts"]]
    assert first["share_of_tokens"]["judge only"]["value"] == pytest.approx(verdicts.count("judge only") / 90)
    for rule in first["rules"].values():
        kept = sum(i * count for i, count in enumerate(rule["accepted_counts"]))
        assert rule["accepted_per_cycle"]["value"] == pytest.approx(kept / sum(rule["accepted_counts"]))
    assert (tmp_path / "out" / "replay.png").read_bytes().startswith(b"\x89PNG")

    page = (tmp_path / "out" / "replay.html").read_text()
    assert author not in page
    assert not re.search(r"https?://|(?:src|href)=\"(?!data:)|@import", page)
    shown = re.findall(r'<div class="text".*?>(.*?)</div>', page, re.DOTALL)
    assert [html.unescape(re.sub("<.*?>", "", text)) for text in shown] == [*texts, "w4"]


def test_a_missing_target_is_one_sentence(tmp_path, models):
    path = write(tmp_path / "texts.jsonl", {"prompt": "w5", "text": "w6"})
    options = ["--target", str(tmp_path / "none"), "--head", str(models / "head"), "-o", str(tmp_path)]
    done = CliRunner().invoke(app, ["replay", str(path), *options])
    assert done.exit_code == 1
    assert done.output == (
        f"vllm-judge: --target must be a model's folder or repository: there is no folder {tmp_path / 'none'}.\n"
    )
