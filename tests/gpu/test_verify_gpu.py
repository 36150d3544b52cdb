"""The fused kernels launched on a GPU, in bf16: against the oracle, and bit for bit against vLLM's own verification.

What the interpreter cannot show: the compiler's order of sums and approximations of exp and log, bf16 loads, and that
programs of one launch do not depend on each other. Bugs these tests would catch: a decision that differs from vLLM's
though the judge accepts nothing, an offset that overflows 32 bits, a launch too many, a host synchronization.

Tokens are compared exactly. Against vLLM that is the claim; against the oracle it holds because hidden states and
weights are dyadic and the fixed seeds put no decision within 1e-4 of a tie.
"""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

from triton.runtime.jit import JITFunction
from verification_batch import expected, random_batch
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

from vllm_judge.kernels.verdicts import num_judge_only

RAGGED, MIXED = [3, 0, 5, 4, 2, 8], [0.0, 1.0, 0.7, 0.0, 1.3, 0.0]
SHAPES = [(64, 500), (576, 32000), (4096, 128256), (5120, 151936), (1023, 50257)]


def gpu_batch(seed, num_drafts=RAGGED, temperatures=MIXED, **options):
    return random_batch(seed, num_drafts, temperatures, dtype=torch.bfloat16, device="cuda", **options)


@pytest.mark.parametrize(("hidden_size", "vocab_size"), SHAPES)
@pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])
@pytest.mark.parametrize("with_draft_logits", [False, True], ids=["one_hot", "draft_logits"])
def test_tokens_and_judge_only_are_the_oracles(hidden_size, vocab_size, processed, with_draft_logits):
    batch = gpu_batch(
        1,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        processed=processed,
        with_evidence=True,
        draft_vocab_size=vocab_size if with_draft_logits else None,
    )
    sampled, num_sampled, verdicts = batch.verify()
    for row, verification in enumerate(expected(batch)):
        assert sampled[row, : num_sampled[row]].tolist() == verification.tokens.tolist(), f"request {row}"
        found, said = verdicts[row].tolist(), verification.verdicts.tolist()
        assert found == said + [0] * (len(found) - len(said)), f"request {row}"


@pytest.mark.parametrize(("hidden_size", "vocab_size"), SHAPES)
@pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])
@pytest.mark.parametrize("with_draft_logits", [False, True], ids=["one_hot", "draft_logits"])
@pytest.mark.parametrize("threshold", [torch.inf, 1e6], ids=["strict", "rejecting"])
def test_a_judge_that_accepts_nothing_leaves_vllms_tokens(
    hidden_size, vocab_size, processed, with_draft_logits, threshold
):
    for seed in range(8):
        batch = gpu_batch(
            seed,
            hidden_size=hidden_size,
            vocab_size=vocab_size,
            processed=processed,
            with_evidence=True,
            draft_vocab_size=vocab_size if with_draft_logits else None,
        )
        batch.inputs["threshold"].fill_(threshold)
        sampled, num_sampled, verdicts = batch.verify()
        strict_sampled, strict_num_sampled = rejection_sample(**batch.strict_inputs)
        assert torch.equal(num_sampled, strict_num_sampled)
        assert num_judge_only(verdicts).sum() == 0
        for row, length in enumerate(num_sampled.tolist()):
            assert torch.equal(sampled[row, :length], strict_sampled[row, :length])


def test_logits_beyond_two_billion_elements():
    """Rows past 2^31 / V: a 32-bit offset would read, and compare, other rows."""
    vocab_size, rows_before = 151936, 2**31 // 151936 + 1
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free GPU memory")
    batch = gpu_batch(2, [0] * rows_before + [4, 4], [0.0] * (rows_before + 2), vocab_size=8, hidden_size=64)
    x = batch.inputs
    small = x["raw_logits"]
    large = torch.full((small.shape[0], vocab_size), -1e4, dtype=torch.bfloat16, device="cuda")
    large[:, :8] = small
    before = batch.verify()
    x["raw_logits"] = x["target_logits"] = large
    x["protected"] = torch.nn.functional.pad(x["protected"], (0, vocab_size - 8))
    after = batch.verify()
    assert torch.equal(before[1], after[1]) and torch.equal(before[2], after[2])
    for row in (-2, -1):
        assert torch.equal(before[0][row, : before[1][row]], after[0][row, : after[1][row]])


def test_the_judge_adds_no_launch_and_no_synchronization(monkeypatch):
    launches = []
    run = JITFunction.run

    def counting(self, *args, **kwargs):
        launches.append(self.__name__)
        return run(self, *args, **kwargs)

    batch = gpu_batch(3, processed=True, with_evidence=True, draft_vocab_size=300)
    batch.verify()  # compiles
    monkeypatch.setattr(JITFunction, "run", counting)
    rejection_sample(**batch.strict_inputs)
    vllms = launches.copy()
    launches.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch.verify()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(launches) == len(vllms) == 4


def test_a_cuda_graph_replays_it():
    batch = gpu_batch(4, processed=True, with_evidence=True)
    eager = batch.verify()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = batch.verify()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured[1], eager[1]) and torch.equal(captured[2], eager[2])
    for row, length in enumerate(eager[1].tolist()):
        assert torch.equal(captured[0][row, :length], eager[0][row, :length])
