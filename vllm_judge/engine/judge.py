"""The judge as a worker holds it: the head's tensors on the worker's device, and what it needs of each request."""

from typing import Any

import torch

from vllm_judge.config import JudgeConfig
from vllm_judge.engine.dial import request_threshold
from vllm_judge.head import JudgeHead

# As many stop tokens of its own as a judged request may have; vLLM bounds them alike where min_tokens is used.
MAX_STOP_TOKEN_IDS = 128
# A thinking budget forces a token by writing 1e9 into its logit (both runners). Where a row's largest logit is beyond
# this bound, every other token of the row is forbidden. Temperature may have divided the 1e9, hence the distance.
FORCED_LOGIT = 1e7


class Judge:
    """A head on a device.

    Attributes:
        head: the judge head.
        protected: [V] bool, the tokens that only the strict test may accept.
    """

    def __init__(self, config: JudgeConfig, vocab_size: int, device: torch.device):
        self.head = JudgeHead.from_pretrained(config.model, revision=config.revision).to(device)
        self._default_threshold = config.threshold
        self._protected_ids = {token for token in config.protected_token_ids if token < vocab_size}
        self.protected = torch.zeros(vocab_size, dtype=torch.bool)
        self.protected[sorted(self._protected_ids)] = True
        self.protected = self.protected.to(device)

    def threshold(self, sampling_params: Any) -> float:
        """The log-odds above which the judge accepts for a request; +inf: strict."""
        return request_threshold(sampling_params.extra_args, self._default_threshold)

    def stop_token_ids(self, sampling_params: Any) -> list[int]:
        """The request's own stop tokens, beyond the protected ones."""
        return sorted(sampling_params.all_stop_token_ids - self._protected_ids)


class JudgeOnlyCount:
    """Tokens of one step that only the judge accepted, on their way from the device to the scheduler.

    The copy starts when the object is made, on the step's own stream; `value` waits for that copy alone, so counting
    never stalls the step (no host synchronisation before the output itself is read).
    """

    def __init__(self, per_request: torch.Tensor):
        """per_request: [num_requests] integer tensor on the worker's device."""
        self._host = per_request.to("cpu", non_blocking=True)
        self._copied = None
        if per_request.device.type != "cpu":
            self._source = per_request  # keeps the memory until the copy has read it
            self._copied = torch.Event(per_request.device)
            self._copied.record()

    def value(self) -> int:
        if self._copied is not None:
            self._copied.synchronize()
        return int(self._host.sum())
