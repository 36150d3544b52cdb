"""Judge Decoding for vLLM. Importing this package imports neither vLLM nor a CUDA context."""

from importlib.metadata import version

from vllm_judge.head import HeadError, JudgeHead

__version__ = version("vllm-judge-decoding")
__all__ = ["HeadError", "JudgeHead", "__version__"]
