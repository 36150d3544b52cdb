"""The judge as a worker holds it: the head's tensors on the worker's device, and what it needs of each request."""

from typing import Any

import numpy as np
import torch
from vllm.logger import init_logger

from vllm_judge.config import JudgeConfig
from vllm_judge.engine import dial
from vllm_judge.errors import DialError
from vllm_judge.head import JudgeHead
from vllm_judge.kernels.thinking import ThinkingAutomaton

logger = init_logger("vllm.judge")

# A thinking budget forces a token by writing 1e9 into its logit (both runners). Where a row's largest logit is beyond
# this bound, every other token of the row is forbidden. Temperature may have divided the 1e9, hence the distance.
FORCED_LOGIT = 1e7


class Judge:
    """A head on a device.

    Attributes:
        head: the judge head.
        config: what the engine was configured with.
        protected: [V] bool, the tokens that only the strict test may accept.
        thinking: what tells where reasoning ends, on the device; None where vLLM was not told.
        stopped: whether every request is to be decoded strictly from now on (drift.py).
    """

    stopped = False

    def __init__(self, config: JudgeConfig, vocab_size: int, device: torch.device):
        self.head = JudgeHead.from_pretrained(config.model, revision=config.revision).to(device)
        self.config, self._vocab_size = config, vocab_size
        self.thinking = None
        if config.thinking is not None:
            self.thinking = ThinkingAutomaton(*config.thinking, vocab_size).to(device)
        self.protected = torch.zeros(vocab_size, dtype=torch.bool)
        self.protected[[token for token in config.protected_token_ids if token < vocab_size]] = True
        self.protected = self.protected.to(device)

    def dial(self, sampling_params: Any) -> dial.Dial:
        """A request's dial, with stop tokens of the vocabulary only. Admission refuses what means nothing; whatever
        comes here all the same must not stop the engine, and is decoded strictly."""
        if self.stopped:
            return dial.STRICT
        try:
            found = dial.read(sampling_params, self.config)
        except DialError as error:
            logger.warning_once("judge: a request is decoded strictly: %s", error)
            return dial.STRICT
        return found._replace(stop_token_ids=tuple(t for t in found.stop_token_ids if 0 <= t < self._vocab_size))


class Verdicts:
    """What was found of each draft of a step, on its way from the device (kernels/verdicts.py).

    The copy starts when the object is made, on the step's own stream; `rows` waits for that copy alone, so counting
    never stalls the step (no host synchronisation before the output itself is read).
    """

    def __init__(self, verdicts: torch.Tensor):
        """verdicts: [num_requests, most drafts] int16 on the worker's device, in the order of the step's output."""
        self._host = verdicts.to("cpu", non_blocking=True)
        self._copied = None
        if verdicts.device.type != "cpu":
            self._source = verdicts  # keeps the memory until the copy has read it
            self._copied = torch.Event(verdicts.device)
            self._copied.record()

    def rows(self) -> np.ndarray:
        """[num_requests, most drafts] int16."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()
