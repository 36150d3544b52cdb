"""The entry point that vLLM calls once in every process (group `vllm.general_plugins`)."""

from vllm_judge.engine import hooks


def register() -> None:
    """Installs the hooks; safe to call more than once."""
    hooks.install()
