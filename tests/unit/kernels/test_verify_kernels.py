"""The fused kernels in Triton's interpreter: against the oracle, and against vLLM's own verification.

Bugs these tests would catch: a score read from the verifying row instead of the draft's own; a judge that overrides a
constraint, a stop token or a placeholder; `judge_only` counted where the strict test had accepted; evidence of the
processed logits, or of a row without its last block; a request's threshold or stop tokens taken at the batch's index
instead of its state's; another order of arithmetic or other random numbers than vLLM's; a launch too many; an argument
written to.

Tokens are compared exactly: hidden states and weights are dyadic, so scores without evidence are exact, and the fixed
seeds put no score, ratio or noisy maximum within rounding (1e-6) of a tie.

Triton chooses between interpreter and compiler when it is imported, so all of this runs in a child process.
"""

import pytest
import torch
from interpreter import IN_CHILD, run_in_interpreter

from vllm_judge.kernels.reference import evidence
from vllm_judge.kernels.verdicts import BUCKET, num_judge_only

if IN_CHILD:
    import triton.runtime.interpreter
    from verification_batch import Batch, expected, random_batch
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

# Drafts and temperature of each request of a step: greedy ones and sampled ones side by side.
RAGGED, MIXED = [3, 4, 0, 5, 2], [0.0, 1.0, 0.7, 0.0, 1.3]


@pytest.mark.skipif(IN_CHILD, reason="this is the child process")
@pytest.mark.timeout(900)
def test_in_triton_interpreter():
    """Runs TestJudgedRejectionSample."""
    run_in_interpreter(__file__)


def assert_as_expected(batch):
    sampled, num_sampled, verdicts = batch.verify()
    judge_only = num_judge_only(verdicts)
    for row, verification in enumerate(expected(batch)):
        assert sampled[row, : num_sampled[row]].tolist() == verification.tokens.tolist(), f"request {row}"
        assert judge_only[row] == verification.judge_only, f"request {row}"
        found, said = verdicts[row].tolist(), verification.verdicts.tolist()
        assert found == said + [0] * (len(found) - len(said)), f"request {row}"
    return int(judge_only.sum())


def assert_same_tokens(result, other):
    (sampled, num_sampled), (other_sampled, other_num_sampled) = result[:2], other[:2]
    assert torch.equal(num_sampled, other_num_sampled)
    for row, length in enumerate(num_sampled.tolist()):
        assert torch.equal(sampled[row, :length], other_sampled[row, :length])


class TestJudgedRejectionSample:
    __test__ = IN_CHILD

    @pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])
    @pytest.mark.parametrize("with_evidence", [False, True], ids=["hidden", "evidence"])
    @pytest.mark.parametrize("draft_vocab_size", [None, 280], ids=["one_hot", "draft_logits"])
    def test_tokens_and_judge_only_are_the_oracles(self, processed, with_evidence, draft_vocab_size):
        judge_only = 0
        for seed in range(3):
            judge_only += assert_as_expected(
                random_batch(
                    seed,
                    RAGGED,
                    MIXED,
                    processed=processed,
                    with_evidence=with_evidence,
                    draft_vocab_size=draft_vocab_size,
                    row_padding=seed * 8,
                )
            )
        assert judge_only > 0, "the batches must reach the judge"

    @pytest.mark.parametrize("hidden_size", [1, 63, 192, 576, 4096, 5120, 16384])
    def test_any_hidden_size(self, hidden_size):
        assert_as_expected(random_batch(3, [2, 3], [0.0, 1.0], hidden_size=hidden_size))

    @pytest.mark.parametrize("vocab_size", [2, 8191, 8193, 32000])
    def test_any_vocabulary_size(self, vocab_size):
        """Evidence and argmax over one block, a full one and several; none of these sizes is a power of two but 2."""
        batch = random_batch(4, [2, 3], [0.0, 1.0], vocab_size=vocab_size, with_evidence=True)
        x = batch.inputs
        x["weight"][:], x["protected"][:], x["num_stop_token_ids"][:] = 0.0, False, 0
        x["evidence_weight"], x["threshold"][:] = torch.tensor([1.0, 1.0, 0.5, 0.0]), -4.0
        accepted = assert_as_expected(batch)
        # With nearly all probability on the last token no draft is likely any more.
        x["raw_logits"][:, -1] = 25.0
        assert assert_as_expected(batch) == 0 < accepted or vocab_size == 2
        # With half of it there, entropy needs each block's sums moved to the row's maximum; every row has enough.
        x["raw_logits"][:, -1] = x["raw_logits"][:, :-1].logsumexp(dim=-1)
        entropy = evidence(x["raw_logits"], torch.zeros(x["raw_logits"].shape[0]))[:, 1]
        x["evidence_weight"], x["threshold"][:] = torch.tensor([0.0, 1.0, 0.0, 0.0]), entropy.min()
        assert assert_as_expected(batch) > 0

    def test_128_drafts_all_accepted(self):
        batch = random_batch(5, [128], [0.0], vocab_size=64)
        batch.inputs["draft_sampled"].clamp_(min=0)
        batch.inputs["threshold"][:] = -torch.inf
        batch.inputs["protected"][:] = False
        batch.inputs["num_stop_token_ids"][:] = 0
        assert assert_as_expected(batch) > 0
        assert batch.verify()[1].tolist() == [129]

    @pytest.mark.parametrize("draft_vocab_size", [None, 300], ids=["one_hot", "draft_logits"])
    @pytest.mark.parametrize("use_fp64", [False, True], ids=["fp32", "fp64"])
    def test_a_judge_that_accepts_nothing_leaves_vllms_tokens(self, draft_vocab_size, use_fp64):
        """By threshold (the strict request, which skips the judge) and by score (the judge runs, and says no)."""
        for threshold in (torch.inf, 1e6):
            batch = random_batch(
                6, RAGGED, MIXED, processed=True, with_evidence=True, draft_vocab_size=draft_vocab_size
            )
            batch.inputs["threshold"][:] = threshold
            batch.inputs["use_fp64"] = use_fp64
            judged = batch.verify()
            assert_same_tokens(judged, rejection_sample(**batch.strict_inputs))
            assert num_judge_only(judged[2]).sum() == 0

    def test_a_threshold_is_its_requests_own(self):
        """Strict and judged requests in one batch: each as in a batch where all are like it."""
        batch = random_batch(7, RAGGED, MIXED)
        judged = batch.verify()
        threshold = batch.inputs["threshold"]
        states = batch.inputs["idx_mapping"].long()
        threshold[states[::2]] = torch.inf
        mixed = batch.verify()
        threshold[:] = torch.inf
        strict = batch.verify()
        for row in range(len(RAGGED)):
            want = strict if row % 2 == 0 else judged
            length = int(want[1][row])
            assert mixed[1][row] == length and torch.equal(mixed[0][row, :length], want[0][row, :length])

    def test_judge_never_accepts_protected_stop_or_forbidden_tokens(self):
        """Where everything is forbidden in one of three ways, a judge that likes everything accepts nothing."""
        for forbid in ("protected", "stop_token_ids", "draft_constrained"):
            batch = random_batch(8, RAGGED, MIXED, processed=True)
            x = batch.inputs
            strict = rejection_sample(**batch.strict_inputs)
            x["threshold"][:] = -torch.inf
            x["protected"][:] = forbid == "protected"
            x["num_stop_token_ids"][:] = 0
            x["draft_constrained"] = torch.zeros_like(x["draft_constrained"])
            if forbid == "stop_token_ids":
                x["stop_token_ids"] = torch.arange(300, dtype=torch.int32).expand(x["threshold"].shape[0], 300)
                x["num_stop_token_ids"][:] = 300
            if forbid == "draft_constrained":
                x["draft_constrained"][0::2], x["draft_constrained"][1::2] = -torch.inf, torch.nan
            judged = batch.verify()
            assert_same_tokens(judged, strict)
            assert num_judge_only(judged[2]).sum() == 0

    @pytest.mark.parametrize("broken", ["hidden", "weight", "bias", "raw_logits", "evidence_weight", "threshold"])
    def test_nan_accepts_nothing(self, broken):
        batch = random_batch(9, RAGGED, MIXED, processed=True, with_evidence=True)
        batch.inputs["raw_scale"][:] = 0.0
        batch.inputs["threshold"][:] = -10.0
        batch.inputs[broken].fill_(torch.nan)
        judged = batch.verify()
        assert_same_tokens(judged, rejection_sample(**batch.strict_inputs))
        assert num_judge_only(judged[2]).sum() == 0

    def test_nan_logits_give_token_ids_inside_the_vocabulary(self):
        batch = random_batch(10, RAGGED, MIXED, with_evidence=True)
        batch.inputs["raw_logits"].fill_(torch.nan)
        sampled, num_sampled, verdicts = batch.verify()
        for row, length in enumerate(num_sampled.tolist()):
            assert 1 <= length <= RAGGED[row] + 1
            assert ((sampled[row, :length] >= 0) & (sampled[row, :length] < 300)).all()
        assert num_judge_only(verdicts).sum() == 0

    def test_raw_rows_without_a_finite_logit_in_a_block_still_give_evidence(self):
        """A grammar leaves whole blocks at -inf: 0 * inf must not turn the row's evidence into NaN."""
        batch = random_batch(11, [3, 2], [0.0, 0.0], vocab_size=20000, with_evidence=True)
        batch.inputs["raw_logits"][:, :8192] = -torch.inf
        drafts = batch.inputs["draft_sampled"]
        drafts[(drafts >= 0) & (drafts < 8192)] += 9000
        batch.inputs["threshold"][:] = -100.0
        assert assert_as_expected(batch) > 0

    def test_evidence_is_of_the_raw_logits(self):
        """A head of evidence alone (is the token as likely as one would expect?) with other answers on other logits."""
        batch = random_batch(15, [6, 6, 6, 6], [0.0, 0.0, 0.7, 1.3], processed=True, with_evidence=True)
        x = batch.inputs
        x["weight"][:], x["protected"][:], x["num_stop_token_ids"][:] = 0.0, False, 0
        x["evidence_weight"] = torch.tensor([1.0, 1.0, 0.5, 1.0])
        x["threshold"][:] = 1.0
        assert assert_as_expected(batch) > 0
        of_processed = Batch(x | {"raw_logits": batch.constrained}, batch.constrained)
        assert any(
            a.num_accepted != b.num_accepted for a, b in zip(expected(batch), expected(of_processed), strict=True)
        )

    @pytest.mark.parametrize("draft_vocab_size", [None, 280], ids=["one_hot", "draft_logits"])
    def test_shadow_leaves_vllms_tokens_and_says_what_the_judge_would_have_let_pass(self, draft_vocab_size):
        gains = 0
        for seed in range(20, 23):
            batch = random_batch(
                seed, RAGGED, MIXED, processed=True, with_evidence=True, draft_vocab_size=draft_vocab_size
            )
            batch.inputs["threshold"][:] = -1.0
            judged = num_judge_only(batch.verify()[2])
            batch.inputs["shadow"][:] = 1
            assert_as_expected(batch)
            assert_same_tokens(batch.verify(), rejection_sample(**batch.strict_inputs))
            gain = [verification.gain for verification in expected(batch)]
            assert all(bool(more) == bool(only) for more, only in zip(gain, judged.tolist(), strict=True))
            gains += sum(gain)
        assert gains > 0

    @pytest.mark.parametrize("markers", [([7], [9]), ([7, 8], [9, 7, 8]), ([7], [7])], ids=["one", "several", "same"])
    def test_confined_to_reasoning_the_judge_accepts_inside_of_it_only(self, markers):
        confined, everywhere = 0, 0
        for seed in range(30, 34):
            batch = random_batch(
                seed, [4, 6, 3], [0.0, 1.0, 0.0], with_evidence=True, shadow=seed % 2 > 0, markers=markers
            )
            batch.inputs["threshold"][:] = -100.0
            batch.inputs["protected"][:] = False
            batch.inputs["num_stop_token_ids"][:] = 0
            thinking = batch.inputs["thinking"]
            confined += assert_as_expected(batch)
            # A second launch finds the texts read, and the same.
            states = batch.inputs["idx_mapping"].long()[thinking.confined[batch.inputs["idx_mapping"].long()] > 0]
            assert torch.equal(thinking.num_read[states], thinking.total_len[states])
            assert_as_expected(batch)
            thinking.confined[:] = 0
            everywhere += assert_as_expected(batch)
        assert 0 < confined < everywhere

    def test_the_judges_probability_is_counted_in_its_bucket_edges_and_nan_included(self):
        batch = random_batch(16, [4], [0.0], vocab_size=8)
        x = batch.inputs
        x["raw_logits"][:], x["raw_logits"][:, 0], x["draft_sampled"][:] = 0.0, 1.0, 3
        x["weight"][:], x["protected"][:], x["num_stop_token_ids"][:], x["threshold"][:] = 0.0, False, 0, -1e9
        for score, bucket in ((0.0, 10), (-1e-3, 9), (-50.0, 0), (50.0, 19), (float("inf"), 19)):
            x["bias"] = torch.tensor(score)
            assert (batch.verify()[2] // BUCKET).tolist() == [[bucket] * 4]
            assert_as_expected(batch)
        x["bias"] = torch.tensor(float("nan"))
        assert assert_as_expected(batch) == 0

    def test_arguments_are_not_modified(self):
        batch = random_batch(12, RAGGED, MIXED, processed=True, with_evidence=True, draft_vocab_size=300)
        tensors = {name: value for name, value in batch.inputs.items() if torch.is_tensor(value)}
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        batch.verify()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize("with_evidence", [False, True], ids=["hidden", "evidence"])
    def test_the_judge_adds_no_launch(self, monkeypatch, with_evidence):
        launches = []
        launch = triton.runtime.interpreter.GridExecutor.__call__

        def counting(self, *args, **kwargs):
            launches.append(self.fn.__name__)
            return launch(self, *args, **kwargs)

        monkeypatch.setattr(triton.runtime.interpreter.GridExecutor, "__call__", counting)
        batch = random_batch(
            13,
            RAGGED,
            MIXED,
            processed=True,
            with_evidence=with_evidence,
            draft_vocab_size=300,
            shadow=True,
            markers=([7], [9]),
        )
        rejection_sample(**batch.strict_inputs)
        vllms = launches.copy()
        launches.clear()
        batch.verify()
        assert len(launches) == len(vllms) == 4
        assert launches[2:] == vllms[2:] == ["_resample_kernel", "_insert_resampled_kernel"]
