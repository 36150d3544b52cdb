"""TokenCourt's commands against a real vLLM: a server and the offline engine with a tiny random chat model, and the
demo's target and draft, whose answers an exact checker reads.

It would catch: an answer that is lost or asked for twice, a label of the pair's own that depends on batching, prefix
caching or a kill, a draft token or a likelihood taken from the place beside its own, one that was never computed.
"""

import contextlib
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

import psutil
import pytest
import tiny
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


def by_the_pair(how: str, questions: Path, court: Path) -> list[str | Path]:
    # Blocks short enough that the prefix cache has some of these answers.
    engine = json.dumps({**ENGINE, "max_model_len": trio.MAX_MODEL_LEN, "block_size": 32})
    command = [BIN / "vllm-judge", "label", how, questions, "-o", court, "--target", trio.TARGET, "--draft", DRAFT]
    command += ["--engine", engine, "--draft-engine", engine, "--max-tokens", str(trio.MAX_NEW_TOKENS)]
    return [*command, "--concurrency", "8"]


def killed(command: list[str | Path], court: Path, log: Path, orderly: bool = False) -> bytes:
    """What of the file is whole when the command was killed in its midst, and its last line cut as by a power cut.

    orderly: it alone is asked to end, and must end all of its engines' processes.
    """
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=sink, stderr=sink, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while not (court.exists() and court.read_bytes().count(b"\n") >= KEPT_AT_LEAST):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(log.read_text()[-3000:])
        time.sleep(0.01)
    if orderly:
        process.terminate()
        assert process.wait(60) == 130 and "interrupted: what is written is whole" in log.read_text()
        deadline = time.monotonic() + 20  # Python's own tracker of resources ends a little behind it
        while (left := of_session(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = court.read_bytes()
    os.truncate(court, len(kept) - 20)
    return kept[: kept.rfind(b"\n", 0, len(kept) - 20) + 1]


def of_session(leader: int) -> list[str]:
    """The processes that a command has left behind, those apart that wait to be buried."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


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
    whole = killed(by_the_pair("mine", path, court), court, tmp_path / "log")
    said = vllm_judge(*by_the_pair("mine", path, court)[1:], "--compare-naive", "1")
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


def likelihoods(model: LlamaForCausalLM, text: list[int], count: int) -> list[list[float]]:
    """Log p of the last tokens of a text, and of the most probable ones in their places."""
    with torch.inference_mode():
        log_p = model(torch.tensor([text])).logits[0, -count - 1 : -1].log_softmax(-1)
    return [[float(row[token]), float(row.max())] for row, token in zip(log_p, text[-count:], strict=True)]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_pair_says_of_texts_what_transformers_says_whatever_of_them_is_cached(tmp_path, runner):
    model = LlamaForCausalLM.from_pretrained(tiny.make_target(tmp_path / "target")).eval()
    base = [3 + 7 * i % 101 for i in range(70)]
    batches = [
        [(base, 3)],
        [
            (base, 9),  # in the cache, with rows that are wanted
            ([*base[:65], 5, *base[66:]], 5),  # two blocks of the cache, and what is wanted stands behind them
            ([*base[:64], 5], 1),  # the row that is wanted is the last one of the cache
            ([*base[:5], 6, *base * 2], 90),  # longer than a step
        ],
    ]
    environment = {**os.environ, **CPU, **RUNNERS[runner]}
    paths = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    path = tmp_path / "batches.json"
    path.write_text(json.dumps(batches))
    command = [sys.executable, Path(__file__).with_name("pair_host.py"), tmp_path / "target", path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads(path.read_text())
    for batch, places in zip(batches, said, strict=True):
        for (text, count), found in zip(batch, places, strict=True):
            torch.testing.assert_close(
                torch.tensor(found), torch.tensor(likelihoods(model, text, count)), atol=1e-4, rtol=0
            )


def test_labels_by_the_target_itself_survive_a_kill_and_are_those_of_transformers_and_of_the_exact_checker(tmp_path):
    path, court = tmp_path / "questions.jsonl", tmp_path / "labelled.jsonl"
    asked = {f"p/{number}": problem for number, problem in enumerate(problems(PROBLEMS, 0, "test"))}
    chats = {id: [Message(role="user", content=problem.question)] for id, problem in asked.items()}
    records.write(path, [Question(id=id, messages=chat, split=Split.train) for id, chat in chats.items()])
    whole = killed(by_the_pair("self", path, court), court, tmp_path / "log", orderly=True)
    said = vllm_judge(*by_the_pair("self", path, court)[1:])
    assert " mismatches/s." in said
    assert court.read_bytes().startswith(whole)

    by_problem: dict[str, list[Answer]] = {id: [] for id in asked}
    for answer in read_court(court):
        by_problem[answer.id.split("#")[0]].append(answer)
    assert all("fall" not in found[-1].metadata and found[-1].verdict == Verdict.right for found in by_problem.values())
    tokenizer = AutoTokenizer.from_pretrained(trio.TARGET)
    target = LlamaForCausalLM.from_pretrained(trio.TARGET, dtype="float32").eval()
    for id in ("p/0", f"p/{PROBLEMS - 1}"):  # from before the kill, and from behind it
        *swapped, own = by_problem[id]
        chat = [message.model_dump() for message in own.messages]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        answer = [*tokenizer.encode(own.answer, add_special_tokens=False), tokenizer.eos_token_id]
        before = likelihoods(target, [*prompt, *answer], len(answer))
        for line in swapped:
            ids = tokenizer.encode(line.answer, add_special_tokens=False)
            behind = answer[len(ids) : len(ids) + 20]
            after = likelihoods(target, [*prompt, *ids, *behind], 1 + len(behind))
            place = len(ids) - 1
            falls = before[place][0] - after[0][0]
            falls += sum(one[1] for one in before[place + 1 : place + 21]) - sum(one[1] for one in after[1:])
            assert line.metadata["fall"] == pytest.approx(falls / 21, abs=1e-4)
    decided = [
        (line.verdict == Verdict.wrong, not right_so_far(asked[id], line.answer))
        for id, found in by_problem.items()
        for line in found[:-1]
        if line.verdict != Verdict.unknown
    ]
    assert sum(wrong for wrong, _ in decided) > PROBLEMS
    assert sum(wrong == checked for wrong, checked in decided) >= 0.99 * len(decided) > PROBLEMS
