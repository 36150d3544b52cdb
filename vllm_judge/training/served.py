"""Hidden states from a running `vllm serve TARGET`, started with SERVE: a cluster may carry it.

Its endpoint /pooling gives the last hidden states of a text's tokens, behind the final norm, and no logits. Where the
output layer is a matrix and nothing more these are its input, and the matrix gives the logits.
"""

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError

from vllm_judge.errors import JudgeError
from vllm_judge.kernels.reference import evidence
from vllm_judge.tokencourt.endpoint import Endpoint, RequestError, ask_all
from vllm_judge.training.choices import Dtype
from vllm_judge.training.output_matrix import output_matrix
from vllm_judge.training.sources import Rows, Text

SERVE = "--runner pooling --convert embed --pooler-config.task token_embed"
CONCURRENCY = 16
TIMEOUT, RETRIES = 3600.0, 2
HOW = {"task": "token_embed", "use_activation": False, "encoding_format": "base64", "embed_dtype": "float32"}
ROWS = 512  # tokens whose logits exist at a time
DTYPES = {Dtype.bfloat16: torch.bfloat16, Dtype.float16: torch.float16, Dtype.float32: torch.float32}


class _Served(BaseModel):
    id: str
    root: str | None = None
    max_model_len: int


class _Models(BaseModel):
    data: list[_Served]


class _Pooled(BaseModel):
    data: str


class _Reply(BaseModel):
    data: list[_Pooled]


class PoolingSource:
    """A pooling server, and its target's output layer.

    Args:
        url: such as http://localhost:8000.
        target: folder or Hub repository, named as the server does.
        dtype: what the server computes in; auto takes what its states show.

    Raises:
        JudgeError: the target's output layer is more than a matrix, or cannot be read.
        JudgeError: no server answers, or it serves another model.
    """

    def __init__(self, url: str, target: str, dtype: Dtype):
        self._url, self._dtype = url.rstrip("/").removesuffix("/v1"), dtype
        self._matrix = output_matrix(target)
        served = asyncio.run(self._served())
        names = {target, str(Path(target).resolve())}
        found = next((one for one in served if names & {one.id, one.root}), None)
        if found is None:
            shown = ", ".join(f"{one.id} ({one.root})" for one in served)
            raise JudgeError(
                f"the server at {self._url} serves {shown}, and --target is {target}: name the target as it does."
            )
        self._model, self.longest = found.id, found.max_model_len

    def read(self, texts: Sequence[Text]) -> Rows:
        """See `Source.read`; the logits are computed in the dtype that the states are in."""
        states = asyncio.run(self._states(texts))
        return Rows(*(torch.cat(column) for column in zip(*map(self._rows, texts, states), strict=True)))

    def _rows(self, one: Text, states: torch.Tensor) -> Rows:
        """Of one text, from its [T, H] states."""
        dtype = self._shown(states)
        rows, tokens = torch.tensor(one.rows), torch.tensor([one.ids[row] for row in one.rows])
        matrix = self._matrix.to(dtype)
        said, preferred = [], []
        for before, block in zip((rows - 1).split(ROWS), tokens.split(ROWS), strict=True):
            logits = torch.nn.functional.linear(states[before].to(dtype), matrix).float()
            said.append(evidence(logits, block))
            preferred.append(logits.argmax(dim=-1))
        return Rows(states[rows].to(dtype), torch.cat(said), torch.cat(preferred))

    def _shown(self, states: torch.Tensor) -> torch.dtype:
        """The dtype that fp32 states were computed in: the narrowest that holds them all."""
        name = next(name for name, dtype in DTYPES.items() if torch.equal(states.to(dtype).float(), states))
        if self._dtype not in (Dtype.auto, name):
            raise JudgeError(f"the server at {self._url} computes in {name}, and --dtype is {self._dtype}.")
        return DTYPES[name]

    async def _served(self) -> list[_Served]:
        endpoint = Endpoint(f"{self._url}/v1", "", TIMEOUT, RETRIES)
        try:
            return _Models.model_validate_json(await endpoint.ask("/models")).data
        except (RequestError, ValidationError) as error:
            said = error if isinstance(error, RequestError) else "answers something that vLLM would not"
            raise JudgeError(f"no vLLM server answers at {self._url}: it {said}.") from None
        finally:
            await endpoint.close()

    async def _states(self, texts: Sequence[Text]) -> list[torch.Tensor]:
        """Of each text [T, H] fp32."""
        endpoint = Endpoint(self._url, self._model, TIMEOUT, RETRIES)
        found: dict[str, torch.Tensor] = {}

        async def ask(one: Text) -> None:
            content = await endpoint.ask("/pooling", {"model": self._model, "input": one.ids, **HOW})
            try:
                [pooled] = _Reply.model_validate_json(content).data
                states = torch.frombuffer(bytearray(base64.b64decode(pooled.data)), dtype=torch.float32)
                found[one.id] = states.view(len(one.ids), self._matrix.shape[1])
            except (ValueError, RuntimeError):
                raise RequestError("gives no hidden state of every token") from None

        try:
            failures = await ask_all(texts, ask, CONCURRENCY, lambda: None)
        finally:
            await endpoint.close()
        for reason, count in failures.most_common(1):
            raise JudgeError(
                f"the server at {self._url} left {count} texts unread, since it {reason.rstrip('.')}: serve with "
                f"{SERVE}, and run the same command again; every whole shard is kept."
            )
        return [found[one.id] for one in texts]
