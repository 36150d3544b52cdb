"""vLLM behind a server, which has the judge in it: a cluster may carry it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vllm_judge.calibration import checkpoint
from vllm_judge.calibration.offline import drafter_identity
from vllm_judge.calibration.sources import by_head, check_room, cycles, dial
from vllm_judge.comparison.answers import Contender
from vllm_judge.comparison.compare import Missing
from vllm_judge.decoding.batch import Decoded
from vllm_judge.decoding.pair import Sampling
from vllm_judge.decoding.questions import Question
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead, fingerprint
from vllm_judge.tokencourt.endpoint import Endpoint, RequestError, ask_all
from vllm_judge.tokencourt.tokenizer import load_tokenizer

M = TypeVar("M", bound=BaseModel)
TIMEOUT = 3600.0  # seconds for one answer: a slow machine with many requests under way
RETRIES = 2
OPTION = "--per-request-spec-decode-metrics summary"
GO_ON = "every answer so far is kept, and the same command goes on from there"


class _Served(BaseModel):
    id: str
    root: str | None = None
    max_model_len: int


class _Models(BaseModel):
    data: list[_Served]


class _Counted(BaseModel):
    """vLLM's figures of a request, and the judge's (see engine/request_metrics.py)."""

    acceptance_histogram: list[int]
    num_spec_tokens: int
    judge_head: str | None = None
    num_judge_only_tokens: int = 0
    num_steps_without_drafts: int = 0
    judge_probabilities: list[int] | None = None


class _Metrics(BaseModel):
    speculative_decoding: _Counted | None = None


class _Choice(BaseModel):
    token_ids: list[int]


class _Completion(BaseModel):
    choices: list[_Choice]
    metrics: _Metrics | None = None

    @property
    def counted(self) -> _Counted | None:
        return self.metrics.speculative_decoding if self.metrics else None


class ServedSource:
    """A running `vllm serve`, asked many questions at a time.

    Args:
        url: such as http://localhost:8000.
        target: what is served there: folder or Hub repository, of whose tokenizer prompts are made.
        speculative_config: what drafts there, vLLM's own keys.
        concurrency: requests under way.

    Raises:
        JudgeError: the target has no tokenizer, or the address cannot be one.
    """

    def __init__(self, url: str, target: str, speculative_config: Mapping[str, Any], concurrency: int):
        self.tokenizer = load_tokenizer(target, "--target")
        self.about = {"source": "vllm serve, over HTTP"}
        self._url, self._target, self._concurrency = url.rstrip("/").removesuffix("/v1"), target, concurrency
        self._speculative = dict(speculative_config)
        self._endpoint = self._open(target)

    def load_head(self, name: str) -> JudgeHead:
        return JudgeHead.from_pretrained(name)

    def identity(self) -> dict[str, Any]:
        target = checkpoint.fingerprint(self._target)
        return {"source": "vllm serve", "target": target, **drafter_identity(self._speculative)}

    def decode(
        self, chosen: Sequence[Contender], missing: Sequence[Missing], how: Sampling
    ) -> Iterator[tuple[Question, int, Decoded]]:
        [(head, asked)] = by_head(chosen, missing)
        answers: asyncio.Queue[tuple[Question, int, Decoded] | None] = asyncio.Queue()

        async def ask(job: tuple[Question, int]) -> None:
            question, i = job
            said = await self._complete(question, dial(chosen[i]), how.temperature, how.max_new_tokens)
            if said.counted is None:
                raise RequestError("leaves metrics.speculative_decoding out of a response")
            counted = said.counted
            if counted.judge_head is None:
                raise RequestError("has stopped judging (judge.on_drift 'strict'): restart it")
            accepted = cycles(counted.acceptance_histogram, counted.num_steps_without_drafts)
            judged = counted.num_judge_only_tokens, counted.judge_probabilities
            answers.put_nowait((*job, Decoded(said.choices[0].token_ids, accepted, *judged)))

        with asyncio.Runner() as runner:
            runner.run(self._check(head, asked, how))
            work = runner.get_loop().create_task(ask_all(asked, ask, self._concurrency, lambda: None))
            work.add_done_callback(lambda _: answers.put_nowait(None))
            while (answer := runner.run(answers.get())) is not None:
                yield answer
            runner.run(self._endpoint.close())
        if error := work.exception():
            raise JudgeError(f"{self._url}: {str(error).rstrip('.')}; {GO_ON}.") from error
        for reason, count in work.result().most_common(1):
            raise JudgeError(f"{self._url} left {count} requests without an answer, since it {reason}; {GO_ON}.")

    async def _check(self, head: str, asked: Sequence[tuple[Question, int]], how: Sampling) -> None:
        """Refuses a server that serves something else than what is to be measured, by one request of one token.

        Raises:
            JudgeError: no server answers, or it has another model, no judge, another head or number of drafts.
        """
        try:
            served = self._model(_parsed(_Models, await self._endpoint.ask("/models")).data)
            check_room(asked, how, served.max_model_len, "--max-model-len of the server")
            self._endpoint = self._open(served.id)
            counted = (await self._complete(asked[0][0], {}, 0.0, 1)).counted
        except RequestError as error:
            raise JudgeError(f"no vLLM server that can be measured at {self._url}: it {error}.") from None
        if counted is None:
            raise JudgeError(f"the server at {self._url} does not count a request's drafts: start it with {OPTION}.")
        if counted.judge_head is None:
            raise JudgeError(
                f"the server at {self._url} has no judge, or one that has stopped judging: start it with a section "
                "judge in its --speculative-config, which names the head that is to be measured."
            )
        if counted.judge_head != fingerprint(JudgeHead.from_pretrained(head)):
            raise JudgeError(
                f"the server at {self._url} judges with another head than the one in {head}: start it anew."
            )
        if counted.num_spec_tokens != how.num_speculative_tokens:
            raise JudgeError(
                f"the server at {self._url} drafts {counted.num_spec_tokens} tokens per cycle, and "
                f"{how.num_speculative_tokens} are to be measured: give --num-speculative-tokens "
                f"{counted.num_spec_tokens}, or start it with the other number."
            )

    def _model(self, served: Sequence[_Served]) -> _Served:
        """The one that is the target, by its name there or by what the server loaded."""
        names = {self._target, str(Path(self._target).resolve())}
        for one in served:
            if names & {one.id, one.root}:
                return one
        shown = ", ".join(f"{one.id} ({one.root})" for one in served)
        raise JudgeError(
            f"the server at {self._url} serves {shown}, and --target is {self._target}: name the target as the server "
            "does."
        )

    def _open(self, model: str) -> Endpoint:
        return Endpoint(f"{self._url}/v1", model, TIMEOUT, RETRIES)

    async def _complete(
        self, question: Question, judge: Mapping[str, Any], temperature: float, max_tokens: int
    ) -> _Completion:
        # A server takes what is not said from the model's generation config: a penalty would not be in other sources.
        body = {
            "model": self._endpoint.model,
            "prompt": question.prompt_ids,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "vllm_xargs": dict(judge),
        }
        return _parsed(_Completion, await self._endpoint.ask("/completions", body))


def _parsed(kind: type[M], content: bytes) -> M:
    try:
        return kind.model_validate_json(content)
    except ValidationError:
        raise RequestError("answers something that vLLM would not") from None
