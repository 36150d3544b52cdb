import os
from collections.abc import Iterator

import pytest
import torch

from vllm_judge.engine.logs import QUIET


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tensors of these tests are tiny: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that is called in this process quietens vLLM for it; the next test's vLLM is not to be quiet."""
    before = {name: os.environ.get(name) for name in QUIET}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
