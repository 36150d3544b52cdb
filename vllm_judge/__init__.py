"""Judge Decoding for vLLM. Importing this package imports neither vLLM nor PyTorch; its names come when asked for."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_judge.errors import HeadError as HeadError
    from vllm_judge.head import JudgeHead as JudgeHead

__version__ = version("vllm-judge-decoding")
__all__ = ["HeadError", "JudgeHead", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "JudgeHead":
        from vllm_judge.head import JudgeHead

        return JudgeHead
    if name == "HeadError":
        from vllm_judge.errors import HeadError

        return HeadError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
