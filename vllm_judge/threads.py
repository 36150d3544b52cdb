"""How many CPU threads a model in plain transformers gets."""

import torch

# Threads wait for each other after every operation. A smaller model's operations are so short that the wait costs more
# than the help brings, and very much more where another process has one of the cores.
PARAMETERS_PER_THREAD = 16_000_000
_MOST = torch.get_num_threads()  # cores, or OMP_NUM_THREADS


def set_threads(*models: torch.nn.Module) -> None:
    """Gives PyTorch as many CPU threads as the largest of these models can use, at most what it takes by itself."""
    parameters = max(sum(parameter.numel() for parameter in model.parameters()) for model in models)
    torch.set_num_threads(max(1, min(_MOST, parameters // PARAMETERS_PER_THREAD)))
