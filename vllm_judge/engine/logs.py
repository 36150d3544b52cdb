"""How much vLLM says in the commands: without importing it, since it reads this once, when it is imported."""

import os

# vLLM's processes have the same environment, and what the user set holds. Its warnings are of its own settings, a dozen
# for every engine on a CPU: as much as its INFO they bury the one line that a command is run for.
QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore:resource_tracker",
}


def keep_quiet() -> None:
    """Lets vLLM say nothing but errors, and those on standard error."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
