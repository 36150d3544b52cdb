"""Model runner V1's path on random steps, around vLLM's own rejection sampler, against the oracle.

What these tests would catch: a strict decision that is misread, a boosted token of a request in shadow, a verdict that
is another's, and a state of reasoning that is not carried from step to step. A stand-in for the runner holds what the
path reads of it; vLLM's verifier, metadata and random numbers are its own.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from vllm import SamplingParams
from vllm.platforms import current_platform
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample import rejection_sampler as vllm_rejection_sampler
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from vllm_judge.config import JudgeConfig
from vllm_judge.engine import hooks, v1
from vllm_judge.engine.judge import Judge
from vllm_judge.engine.v1_thinking import ThinkingStates
from vllm_judge.kernels.reference import allowed, evidence, inside_thinking, verify

VOCAB, START, END = 12, [7], [9]
DRAFTS = [3, 5, 0, 4, 2, 6]
DIALS: list[dict[str, Any]] = [
    {},
    {"judge_mode": "shadow"},
    {},
    {"judge_scope": "thinking"},
    {"judge": False},
    {"judge_mode": "shadow", "judge_scope": "thinking"},
]


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """As a worker has them, with our repairs of what vLLM's do on a CPU."""
    hooks.install()
    if current_platform.is_cpu():
        current_platform.import_kernels()
        current_platform.register_triton_kernel_overrides()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    head = tiny.make_head(tmp_path_factory.mktemp("heads") / "judge", 0.0, use_evidence=True, scale=0.3)
    config = JudgeConfig(str(head), None, 0.5, (1,), fingerprint="", thinking=(tuple(START), tuple(END)))
    return Judge(config, VOCAB, torch.device("cpu"))


class Steps:
    """Six requests of random texts, and a verifier that takes them step by step."""

    def __init__(self, judge: Judge, seed: int, temperatures: list[float]):
        self.rng, self.temperatures = torch.Generator().manual_seed(seed), torch.tensor(temperatures)
        self.generators = {i: torch.Generator().manual_seed(seed + i) for i in range(len(DRAFTS)) if temperatures[i]}
        self.texts = [torch.randint(6, VOCAB, (4,), generator=self.rng).tolist() for _ in DRAFTS]
        params = [SamplingParams(extra_args=dial) for dial in DIALS]
        requests = [
            SimpleNamespace(prompt_token_ids=text[:3], output_token_ids=text[3:], sampling_params=one)
            for text, one in zip(self.texts, params, strict=True)
        ]
        names = [f"request {i}" for i in range(len(requests))]
        self.runner = SimpleNamespace(
            device=torch.device("cpu"),
            requests=dict(zip(names, requests, strict=True)),
            input_batch=SimpleNamespace(req_ids=names),
            discard_request_mask=SimpleNamespace(gpu=torch.zeros(len(names), dtype=torch.bool)),
            execute_model=None,
            _sample=self._sample,
        )
        self.verifier = vllm_rejection_sampler.RejectionSampler(Sampler())
        self.verifier.__class__ = v1.JudgedRejectionSampler
        self.verifier.judge, self.verifier.runner, self.verifier.unproposed = judge, self.runner, set()
        self.verifier.thinking = ThinkingStates(self.runner, judge)

    def _sample(self, logits: torch.Tensor, metadata: SpecDecodeMetadata) -> SamplerOutput:
        nothing = torch.zeros(len(DRAFTS))
        greedy = not self.generators
        sampling = SamplingMetadata(
            temperature=None if greedy else self.temperatures.clone(),
            all_greedy=greedy,
            all_random=False,
            top_p=None,
            top_k=None,
            generators=self.generators,
            max_num_logprobs=None,
            no_penalties=True,
            prompt_token_ids=None,
            frequency_penalties=nothing,
            presence_penalties=nothing,
            repetition_penalties=nothing,
            output_token_ids=[[] for _ in DRAFTS],
            allowed_token_ids_mask=None,
            bad_words_token_ids={},
            logitsprocs=LogitsProcessors(),
        )
        return self.verifier(metadata, None, logits, sampling)

    def step(self) -> tuple[list[list[int]], torch.Tensor, list[Any]]:
        """Tokens and verdicts of a random step, and what the oracle makes of it with the same uniform numbers."""
        lengths = [count + 1 for count in DRAFTS]
        ends = torch.tensor(lengths).cumsum(0)
        firsts = (ends - torch.tensor(lengths)).tolist()
        logits = 2.0 * torch.randn(sum(lengths), VOCAB, generator=self.rng)
        drafts = []
        for first, count in zip(firsts, DRAFTS, strict=True):
            best = logits[first : first + count].topk(3).indices
            drafts.append(best.gather(1, torch.randint(0, 3, (count, 1), generator=self.rng))[:, 0].tolist())
        metadata = SpecDecodeMetadata.make_dummy(drafts, torch.device("cpu"))
        own = [first + i for first, count in zip(firsts, DRAFTS, strict=True) for i in range(count)]
        metadata.target_logits_indices, metadata.bonus_logits_indices = torch.tensor(own), ends - 1
        self.verifier.hidden = torch.randn(sum(lengths), tiny.HIDDEN, generator=self.rng)
        drawn: list[torch.Tensor] = []
        draw = vllm_rejection_sampler.generate_uniform_probs
        vllm_rejection_sampler.generate_uniform_probs = lambda *args: drawn.append(draw(*args)) or drawn[-1]
        try:
            output = self.runner._sample(logits.clone(), metadata).sampled_token_ids
        finally:
            vllm_rejection_sampler.generate_uniform_probs = draw
        assert len(drawn) == bool(self.generators)
        uniform = drawn[0].float() if drawn else torch.zeros(len(own))
        wanted = [
            self._oracle(i, logits[first : first + count + 1], torch.tensor(drafts[i]).int(), uniform, first)
            for i, (first, count) in enumerate(zip(firsts, DRAFTS, strict=True))
        ]
        found = [[token for token in row if token >= 0] for row in output.tolist()]
        for text, tokens in zip(self.texts, found, strict=True):
            text += tokens
        return found, self.verifier.verdicts.rows(), wanted

    def _oracle(self, i: int, logits: torch.Tensor, drafts: torch.Tensor, uniform: torch.Tensor, first: int) -> Any:
        judge, count = self.verifier.judge, len(drafts)
        dial = judge.dial(SamplingParams(extra_args=DIALS[i]))
        scores = judge.head.score(
            self.verifier.hidden[first + 1 : first + 1 + count], evidence(logits[:count], drafts)
        ).detach()
        temperature = float(self.temperatures[i])
        may = allowed(logits[:count], drafts, judge.protected)
        if dial.thinking_only:
            may &= inside_thinking(self.texts[i], drafts, START, END)
        begin = sum(DRAFTS[:i])
        return verify(
            logits / (temperature or 1.0),
            drafts,
            scores,
            dial.threshold,
            may,
            temperature=temperature,
            uniform=uniform[begin : begin + count],
            gumbel=torch.zeros(count + 1, VOCAB),
            shadow=dial.shadow,
        )


@pytest.mark.parametrize("temperatures", [[0.0] * 6, [0.0, 1.0, 0.7, 1.0, 0.0, 1.3]], ids=["greedy", "sampling"])
def test_tokens_and_verdicts_of_steps_in_a_row_are_the_oracles(judge, temperatures):
    gains = judge_only = 0
    for seed in range(12):
        steps = Steps(judge, seed, temperatures)
        for _ in range(4):
            found, verdicts, wanted = steps.step()
            for i, one in enumerate(wanted):
                # The target's own token is drawn by vLLM with noise of its own.
                greedy = temperatures[i] == 0.0
                assert found[i][: None if greedy else -1] == one.tokens[: None if greedy else -1].tolist()
                assert len(found[i]) == one.num_accepted + 1
                said = one.verdicts.tolist()
                assert verdicts[i].tolist() == said + [0] * (max(DRAFTS) - len(said))
                gains, judge_only = gains + one.gain, judge_only + one.judge_only
    assert gains > 10 and judge_only > 10


def test_a_prompt_in_parts_and_a_preemption_leave_the_state_of_reasoning_right(judge):
    steps = Steps(judge, 5, [0.0] * 6)
    thinking, runner = steps.verifier.thinking, steps.runner
    name, request = runner.input_batch.req_ids[3], runner.requests[runner.input_batch.req_ids[3]]
    scheduled = SimpleNamespace(
        scheduled_new_reqs=[], finished_req_ids=set(), scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=set())
    )
    draft = torch.full((6, 1), 8)

    def inside() -> bool:
        return bool(thinking.inside(draft)[3, 0])

    request.prompt_token_ids, request.output_token_ids = [*START, 8], []
    runner.discard_request_mask.gpu[3] = True
    thinking_step(thinking, torch.full((6, 1), END[0]))
    assert inside(), "what is sampled before a prompt is read is no token"
    runner.discard_request_mask.gpu[3] = False
    thinking_step(thinking, torch.full((6, 1), END[0]))
    assert not inside()
    request.output_token_ids = [8, 8]  # as the scheduler has it, which dropped the last step
    scheduled.scheduled_cached_reqs.resumed_req_ids = {name}
    thinking.forget(scheduled)
    thinking_step(thinking, torch.full((6, 1), 8))
    assert inside()


def thinking_step(thinking: ThinkingStates, sampled: torch.Tensor) -> None:
    thinking.begin()
    thinking.advance(sampled)
