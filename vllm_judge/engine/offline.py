"""vLLM's `LLM` for the commands that work offline, ended cleanly."""

import atexit
import weakref
from typing import Any

from vllm import LLM

JOIN_SECONDS = 10.0


def start(**options: Any) -> LLM:
    """`vllm.LLM(**options)`, stopped before Python ends, if not by then.

    Symptom: now and then a command whose work is done and saved ends with "terminate called without an active
    exception" and exit status 134. Why: vLLM's client does not wait for its output thread when it shuts down, and a
    thread that frees tensors while Python ends is torn out of C++ code. How: the engine is stopped, and the thread
    waited for, while Python still runs. Until: vLLM joins the thread itself.
    """
    llm = LLM(**options)
    reference = weakref.ref(llm)
    atexit.register(lambda: stop(still) if (still := reference()) else None)
    return llm


def stop(llm: LLM) -> None:
    """Stops an engine's processes, and waits for the thread that took their output."""
    client: Any = llm.llm_engine.engine_core
    client.shutdown()
    if thread := getattr(client, "output_queue_thread", None):  # none where the engine runs in this process
        thread.join(JOIN_SECONDS)
