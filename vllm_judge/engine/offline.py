"""vLLM's `LLM` for the commands that work offline, ended cleanly."""

import atexit
import weakref
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError
from vllm import LLM
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError

from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar

JOIN_SECONDS = 10.0


def start(**options: Any) -> LLM:
    """`vllm.LLM(**options)`, stopped before Python ends, if not by then.

    Symptom: now and then a command whose work is done and saved ends with "terminate called without an active
    exception" and exit status 134. Why: vLLM's client does not wait for its output thread when it shuts down, and a
    thread that frees tensors while Python ends is torn out of C++ code. How: the engine is stopped, and the thread
    waited for, while Python still runs. Until: vLLM joins the thread itself.

    Raises:
        JudgeError: vLLM or the judge refuses the options, or the engine fails as it starts.
    """
    try:
        with bar(f"loading {options['model']}", 1) as advance:
            llm = LLM(**options)
            advance()
    except Exception as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        reason = said.removeprefix("Value error, ").strip().split("\n")[0] or type(error).__name__
        raise JudgeError(f"the engine of {options['model']} does not start: {reason}") from error
    reference = weakref.ref(llm)
    atexit.register(lambda: stop(still) if (still := reference()) else None)
    return llm


def options_for_seeded_requests() -> dict[str, Any]:
    """Options under which a request with a seed is answered the same every time, whatever runs beside it.

    Symptom: on CPU, seeded sampled requests that vLLM reads in chunks fail. Why: after a chunk that is not the prompt's
    last, vLLM rewinds the request's generator, which only a GPU's generator can do. How: prompts are read whole there.
    Until: vLLM rewinds CPU generators too.
    """
    return {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}


def generate(
    llm: LLM, prompts: Sequence[str | list[int]], params: Sequence[Any], at_a_time: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Each prompt's index and completion as soon as it is done, where `LLM.generate` waits for the last.

    Args:
        prompts: texts or token ids; params: a SamplingParams for each.
        at_a_time: so many are under way at any time; None: all at once.

    Raises:
        JudgeError: the engine died.
    """
    waiting = iter(range(len(prompts)))
    index: dict[str, int] = {}

    def enqueue(count: int) -> None:
        if batch := list(islice(waiting, count)):
            texts = [prompts[number] for number in batch]
            asked: Any = [{"prompt" if isinstance(one, str) else "prompt_token_ids": one} for one in texts]
            names = llm.enqueue(asked, [params[number] for number in batch], use_tqdm=False)
            # vLLM hands out its own names of requests, "number-random", and its outputs have the number.
            index.update(zip([name.partition("-")[0] for name in names], batch, strict=True))

    try:
        enqueue(at_a_time or len(prompts))
        while llm.llm_engine.has_unfinished_requests():
            outputs: Any = llm.llm_engine.step()
            for output in outputs:
                if output.finished:
                    enqueue(1)
                    yield index[output.request_id], output.outputs[0]
    except EngineDeadError:
        model = llm.model_config.model
        raise JudgeError(f"the engine of {model} died: its log above says why; run again to go on.") from None


def stop(llm: LLM) -> None:
    """Stops an engine's processes, and waits for the thread that took their output."""
    client: Any = llm.llm_engine.engine_core
    client.shutdown()
    if thread := getattr(client, "output_queue_thread", None):  # none where the engine runs in this process
        thread.join(JOIN_SECONDS)
