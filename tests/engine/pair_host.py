"""In a process of its own, what the target of a pair says of texts.

    pair_host.py MODEL FILE

FILE is JSON, a list of batches of texts: token ids, and how many of the last ones. In their place it gets the places of
these tokens, text by text, as pairs of log p.
"""

import json
import sys
from pathlib import Path

from environments import KV_CACHE_BYTES

from vllm_judge.engine import offline
from vllm_judge.tokencourt.label.pair import VllmPair

BLOCK = 32

if __name__ == "__main__":
    target = offline.start(
        model=sys.argv[1],
        dtype="float32",
        enforce_eager=True,
        block_size=BLOCK,
        max_num_batched_tokens=64,
        max_num_seqs=8,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        enable_prefix_caching=True,
        logprobs_mode="raw_logprobs",
    )
    pair = VllmPair(target, draft=None)
    path = Path(sys.argv[2])
    batches = json.loads(path.read_text())
    path.write_text(json.dumps([pair.log_probs(*zip(*batch, strict=True)) for batch in batches]))
    offline.stop(target)
