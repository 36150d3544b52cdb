"""TokenCourt's commands against a real vLLM: a server and the offline engine with a tiny random chat model, and the
demo's target and draft, whose answers an exact checker reads.

It would catch: an answer that is lost or asked for twice, a mined label that depends on batching, prefix caching or a
kill, a draft token taken from the place beside its own.
"""

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
import torch
from environments import CPU, KV_CACHE_BYTES, RUNNERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vllm_judge.demo import trio
from vllm_judge.demo.world import Problem, first_mistake, is_correct, problems
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Check, Split
from vllm_judge.tokencourt.court import Answer, Message, Verdict, read_court
from vllm_judge.tokencourt.final_answer import final_expression
from vllm_judge.tokencourt.questions import Question

START_SECONDS = 240
QUESTIONS = 6
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, **CPU, **RUNNERS["v1"]}
ENGINE = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES}


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
    command += ["--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
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
    command = [BIN / "vllm-judge", "label", "llm", court, "-o", labelled, "--endpoint", endpoint, "--model", "talker"]
    done = subprocess.run([*command, "--max-tokens", "200"], env=ENVIRONMENT, capture_output=True, text=True)
    refused = len([answer for answer in read_court(labelled) if "refused" in answer.metadata])
    assert f"{2 * QUESTIONS - refused} answers labelled by talker" in done.stdout, done.stderr
    assert done.returncode == (refused == 2 * QUESTIONS)  # a random model may give no reply that can be used
    assert {answer.id for answer in read_court(labelled)} == {answer.id for answer in answers}


def test_the_offline_engine_answers_what_is_missing(talker, questions):
    court = questions.with_name("offline.jsonl")
    engine = json.dumps({**ENGINE, "max_model_len": 2048})
    command = ["court", "answers", questions, "-o", court, "--model", str(talker), "--engine", engine]
    options = ["--temperature", "0", "--temperature", "1", "--max-tokens", "16"]
    assert f"{2 * QUESTIONS} answers added" in vllm_judge(*command, *options)
    whole = court.read_bytes().splitlines(keepends=True)
    court.write_bytes(b"".join(whole[:5]))
    said = vllm_judge(*command, *options)
    assert f"{2 * QUESTIONS - 5} answers added" in said and "5 were there" in said
    assert sorted(court.read_bytes().splitlines(keepends=True)) == sorted(whole)


PROBLEMS = 40
KEPT_AT_LEAST = 12  # lines, at the kill
DRAFT = trio.FOLDER / "draft"


def mining(questions: Path, court: Path) -> list[str | Path]:
    # Blocks short enough that the prefix cache has some of these answers.
    engine = json.dumps({**ENGINE, "max_model_len": trio.MAX_MODEL_LEN, "block_size": 32})
    command = [BIN / "vllm-judge", "label", "mine", questions, "-o", court, "--target", trio.TARGET, "--draft", DRAFT]
    command += ["--engine", engine, "--draft-engine", engine, "--max-tokens", str(trio.MAX_NEW_TOKENS)]
    return [*command, "--concurrency", "8"]


def search_alone(problem: Problem) -> list[str]:
    """AutoJudge's algorithm 1 in transformers, without a batch or a cache between its steps.

    Returns:
        the answer up to and with each important token, then the final answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(trio.TARGET)
    target, draft = (LlamaForCausalLM.from_pretrained(name, dtype="float32").eval() for name in (trio.TARGET, DRAFT))
    chat = [{"role": "user", "content": problem.question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)

    def finish(beginning: list[int]) -> list[int]:
        ids = torch.tensor([[*prompt, *beginning]])
        room = trio.MAX_NEW_TOKENS - len(beginning)
        written = target.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False)
        return written[0, len(prompt) :].tolist()

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    answer, place, important = finish([]), 0, []
    with torch.inference_mode():
        while place < len(answer):
            [logits] = draft(torch.tensor([[*prompt, *answer]])).logits
            token = int(logits[len(prompt) + place - 1].argmax())
            if token not in (answer[place], tokenizer.eos_token_id):
                other = finish([*answer[:place], token])
                if final_expression(text(other), True) == final_expression(text(answer), True):
                    answer = other
                else:
                    important.append(text([*answer[:place], token]))
            place += 1
    return [*important, text(answer)]


def right_so_far(problem: Problem, text: str) -> bool:
    return first_mistake(problem, text) in (None, len(text))


def test_mining_survives_a_kill_and_agrees_with_the_search_alone_and_with_the_exact_checker(tmp_path):
    path, court = tmp_path / "questions.jsonl", tmp_path / "mined.jsonl"
    asked = {f"p/{number}": problem for number, problem in enumerate(problems(PROBLEMS, 0, "test"))}
    records.write(
        path,
        [
            Question(
                id=id,
                messages=[Message(role="user", content=problem.question)],
                split=Split.train,
                reference=str(problem.answer),
                check=Check.number,
            )
            for id, problem in asked.items()
        ],
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(mining(path, court), env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while not (court.exists() and court.read_bytes().count(b"\n") >= KEPT_AT_LEAST):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail((tmp_path / "log").read_text()[-3000:])
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = court.read_bytes()
    # What a power cut leaves: a question that has some of its lines, the last of them in part.
    os.truncate(court, len(kept) - 20)
    whole = kept[: kept.rfind(b"\n", 0, len(kept) - 20) + 1]
    said = vllm_judge(*mining(path, court)[1:], "--compare-naive", "1")
    assert "One by one, without: 1 questions in " in said and " times as fast" in said
    assert court.read_bytes().startswith(whole)

    answers = read_court(court)
    by_problem: dict[str, list[Answer]] = {id: [] for id in asked}
    for answer in answers:
        by_problem[answer.id.split("#")[0]].append(answer)
    mined = {id: found for id, found in by_problem.items() if found[-1].verdict == Verdict.right}
    assert len(mined) >= 0.9 * PROBLEMS
    with_mistakes = [id for id, found in mined.items() if len(found) > 1]
    for id in (*with_mistakes[:2], with_mistakes[-1]):  # from before the kill, and from behind it
        assert [answer.answer for answer in mined[id]] == search_alone(asked[id])
    assert all(is_correct(asked[id], found[-1].answer) for id, found in mined.items())
    # A slip that the target takes back ("45 wait, 46") changes no final answer: behind one the checker has no say.
    first = [
        (first_mistake(asked[id], answer.answer), answer.mistake)
        for id, found in mined.items()
        for answer in found[:-1]
        if right_so_far(asked[id], answer.answer[: answer.mistake.start])
    ]
    agreed = [mistake is not None and span.start <= mistake < span.end for mistake, span in first]
    assert len(agreed) >= 8 and sum(agreed) >= 0.9 * len(agreed)
