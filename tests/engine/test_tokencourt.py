"""TokenCourt's commands against a real vLLM: its server and its offline engine, with a tiny random chat model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CPU, RUNNERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Message, read_court
from vllm_judge.tokencourt.questions import Question, Split

START_SECONDS = 240
QUESTIONS = 6
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, **CPU, **RUNNERS["v1"]}


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says random bytes, so that it can also be made to say JSON."""
    folder = tmp_path_factory.mktemp("talker")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", chat_template=template).save_pretrained(
        folder
    )
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=257, eos_token_id=256, bos_token_id=None, max_position_embeddings=2048, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", talker]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "2048", "--served-model-name", "talker"]
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=sink, stderr=sink, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("court") / "questions.jsonl"
    chats = [[Message(role="user", content=f"What is {number} + 1?")] for number in range(QUESTIONS)]
    made = [Question(id=f"q/{number}", messages=chat, split=Split.train) for number, chat in enumerate(chats)]
    records.write(path, made)
    return path


def vllm_judge(*arguments: str | Path) -> str:
    command = [BIN / "vllm-judge", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_vllm_server_answers_and_annotates(endpoint, questions):
    court, labelled = questions.with_name("served.jsonl"), questions.with_name("labelled.jsonl")
    command = ["court", "answers", questions, "-o", court, "--endpoint", endpoint, "--model", "talker"]
    said = vllm_judge(*command, "--samples", "2", "--max-tokens", "16")
    assert f"{2 * QUESTIONS} answers added" in said
    answers = read_court(court)
    assert len({answer.answer for answer in answers}) == len(answers) == 2 * QUESTIONS
    assert all(answer.metadata["finish_reason"] in ("length", "stop") for answer in answers)
    command = ["label", "llm", court, "-o", labelled, "--endpoint", endpoint, "--model", "talker"]
    said = vllm_judge(*command, "--max-tokens", "200")
    count = len([answer for answer in read_court(labelled) if "refused" in answer.metadata])
    assert f"{2 * QUESTIONS - count} answers labelled by talker" in said
    assert {answer.id for answer in read_court(labelled)} == {answer.id for answer in answers}


def test_the_offline_engine_answers_what_is_missing(talker, questions):
    court = questions.with_name("offline.jsonl")
    engine = json.dumps({"dtype": "float32", "enforce_eager": True, "max_model_len": 2048})
    command = ["court", "answers", questions, "-o", court, "--model", str(talker), "--engine", engine]
    options = ["--temperature", "0", "--temperature", "1", "--max-tokens", "16"]
    assert f"{2 * QUESTIONS} answers added" in vllm_judge(*command, *options)
    whole = court.read_bytes().splitlines(keepends=True)
    court.write_bytes(b"".join(whole[:5]))
    said = vllm_judge(*command, *options)
    assert f"{2 * QUESTIONS - 5} answers added" in said and "5 were there" in said
    assert sorted(court.read_bytes().splitlines(keepends=True)) == sorted(whole)
