"""How much vLLM says in the commands: without importing it, since it reads this once, when it is imported."""

import os

# Lines of vLLM's on a screen that a command writes its own results on, by vLLM's own variables; its processes have the
# same environment. What the user set holds.
QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_LOGGING_STREAM": "ext://sys.stderr", "GLOO_LOG_LEVEL": "ERROR"}


def keep_quiet() -> None:
    """Lets vLLM say no more than warnings, and those on standard error."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
