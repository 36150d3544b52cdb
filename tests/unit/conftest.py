import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tensors of these tests are tiny: a second thread costs more than it brings."""
    torch.set_num_threads(1)
