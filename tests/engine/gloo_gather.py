"""Put into workers (`worker_extension_cls`): the all-gather of batch-sharded sampling, which CPU workers lack."""

import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.v1.worker.gpu.sample import batch_shard


def all_gather(tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
    group = get_tp_group()
    parts = [torch.empty_like(tensor) for _ in range(group.world_size)]
    torch.distributed.all_gather(parts, tensor.contiguous(), group=group.cpu_group)
    return torch.cat(parts, dim)


batch_shard.tensor_model_parallel_all_gather = all_gather


class Extension:
    """vLLM mixes it into its worker class; importing this module is all that it is for."""
