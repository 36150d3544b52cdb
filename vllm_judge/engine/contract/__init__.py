"""What vllm-judge builds on in vLLM, as data, by vLLM's own names, written against vLLM 0.32 and 0.33.

hooks.py checks what it wraps before it does; configuration.py checks all that an engine needs when its configuration is
made, in the sources, without importing what only a worker may import; scripts/check_vllm.py checks everything against
any version's wheel.
"""

from vllm_judge.engine.contract.both import BOTH, HOOKED, OFFLINE
from vllm_judge.engine.contract.kernels import KERNELS
from vllm_judge.engine.contract.kinds import Expectation, Function, Names, Text
from vllm_judge.engine.contract.prompt_states import PROMPT_STATES
from vllm_judge.engine.contract.sources import Sources
from vllm_judge.engine.contract.v1 import V1
from vllm_judge.engine.contract.v2 import V2

CONTRACT: tuple[Expectation, ...] = (*HOOKED, *BOTH, *OFFLINE, *V1, *V2, *KERNELS, *PROMPT_STATES)

__all__ = [
    "BOTH",
    "CONTRACT",
    "HOOKED",
    "KERNELS",
    "PROMPT_STATES",
    "V1",
    "V2",
    "Expectation",
    "Function",
    "Names",
    "Sources",
    "Text",
]
