"""The campaign's V1 path: the judge in vLLM's own RejectionSampler against the oracle, and, where it rejects all,
against vLLM's own sampler.

The steps are the kernels', as V1 gets them: constraints are a request's own mask of allowed tokens, draft probabilities
instead of logits, seeded generators for some requests, and where reasoning stands is told in part by the tokens that
a request came with, in part by those that were sampled since.

Where V1 differs by design: one noise vector serves all places of a request. In a row with a NaN or +inf the judge's
boost is not the row's maximum, so nothing is accepted there by the judge alone. vLLM rejects a draft token without
probability under the draft model whatever the target says: here, as in life, what is drawn from a distribution has
some. And vLLM's stand-ins for these kernels on a CPU take a sampled request's placeholder for a place in memory (which
its scheduler never gives them there): only greedy requests have any.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from fuzz.agreement import Agreement, compare
from fuzz.steps import Kind, step
from verification_batch import Batch
from vllm import SamplingParams
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler as vllm_rejection_sampler
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from vllm_judge import JudgeHead
from vllm_judge.config import JudgeConfig
from vllm_judge.engine import hooks
from vllm_judge.engine.judge import Judge
from vllm_judge.engine.v1 import JudgedRejectionSampler
from vllm_judge.engine.v1_thinking import ThinkingStates
from vllm_judge.kernels import reference
from vllm_judge.kernels.verdicts import num_judge_only

REQUESTS = 96  # of a step
TOP_K = 12
hooks.install()
# What vLLM's workers do as they start.
current_platform.import_kernels()
current_platform.register_triton_kernel_overrides()


def run(seed: int) -> tuple[Counter[str], list[str]]:
    """One step: cases by kind, and a sentence for each difference."""
    case = Case(seed, *step(seed, REQUESTS))
    counts, differences = Counter[str](), []
    for request, (agreement, got, want) in enumerate(case.against_the_oracle()):
        counts[f"V1 = oracle, {agreement}: {case.kind}"] += 1
        if agreement is Agreement.different:
            differences.append(
                f"seed {seed}, request {request}, {case.kind}: V1 {got}, oracle {reference.verify(**want)}"
            )
    for request, (got, want) in enumerate(case.against_vllm()):
        counts["V1 with a rejecting head = vLLM's V1"] += 1
        if got != want:
            differences.append(f"seed {seed}, request {request}, {case.kind}: rejecting {got}, vLLM's {want}")
    return counts, differences


class Case:
    """A kernels' step in V1's terms."""

    def __init__(self, seed: int, kind: Kind, batch: Batch):
        self.seed, self.kind, self.markers = seed, kind, batch.markers
        x, self.rng = batch.inputs, random.Random(seed)
        self.states, self.bounds = x["idx_mapping"].long(), batch.bounds
        self.num_drafts = [end - first - 1 for first, end in self.bounds]
        self.logits, self.vocab_size = x["raw_logits"], x["raw_logits"].shape[1]
        self.owners = torch.arange(len(self.bounds)).repeat_interleave(torch.tensor(self.num_drafts) + 1)
        is_verifying = torch.ones(len(self.logits), dtype=torch.bool)
        is_verifying[x["cu_num_logits"][1:].long() - 1] = False
        self.verifying, self.bonus = is_verifying.nonzero().flatten(), (~is_verifying).nonzero().flatten()
        self.drafts = x["draft_sampled"][self.verifying + 1].contiguous()
        self.temperature = x["temperature"][self.states]
        sampled = (self.temperature > 0)[self.owners[self.verifying]]
        self.drafts = self.drafts.clamp(min=0).where(sampled, self.drafts)
        self.draft_logits = x["draft_logits"] if self.kind.draft_vocab_size == self.vocab_size else None
        if self.draft_logits is not None:
            self.draw_drafts()
        self.hidden = x["hidden"][x["hidden_rows"]]
        self.top_k = self.forbidden = None
        if self.kind.processed:
            self.top_k = torch.tensor(
                [self.rng.choice([1, min(TOP_K, self.vocab_size), self.vocab_size]) for _ in self.bounds]
            )
            masks = torch.rand(len(self.bounds), self.vocab_size, generator=torch.Generator().manual_seed(seed)) < 0.3
            self.forbidden = masks & (self.top_k > 1)[:, None]
        self.judge_settings(x)

    def draw_drafts(self) -> None:
        """Makes drafts such that their distribution may have given them."""
        logits = self.draft_logits.float()
        self.draft_logits = logits.masked_fill(~logits.amax(dim=-1, keepdim=True).isfinite(), 0.0)
        probs, drafts = self.draft_probs(), self.drafts.clamp(min=0)
        has_some = probs.gather(1, drafts.long()[:, None])[:, 0] > 0
        self.drafts = drafts.where(has_some, probs.argmax(dim=-1)).int()

    def judge_settings(self, x: dict[str, Any]) -> None:
        """The judge, and what each request says to it."""
        head = JudgeHead(self.hidden.shape[1], use_evidence=x["evidence_weight"] is not None)
        head.weight.data, head.bias.data = x["weight"], x["bias"]
        if head.evidence is not None:
            head.evidence.data = x["evidence_weight"]
        protected = tuple(x["protected"].nonzero().flatten().tolist())
        with tempfile.TemporaryDirectory() as folder:
            head.save_pretrained(folder)
            config = JudgeConfig(folder, None, 0.5, protected, thinking=self.markers, fingerprint="")
            self.judge = Judge(config, self.vocab_size, torch.device("cpu"))
        self.requests = {}
        for request, state in enumerate(self.states.tolist()):
            stops = x["stop_token_ids"][state, : x["num_stop_token_ids"][state]].tolist()
            said = self.rng.choice([{}, {}, {"judge": False}, {"judge_threshold": self.rng.choice([0, 1, 0.01, 0.7])}])
            if x["shadow"][state]:
                said = {**said, "judge_mode": "shadow"}
            text: list[int] = []
            if self.markers is not None:
                said = {**said, "judge_scope": "thinking" if x["thinking"].confined[state] else "everywhere"}
                text = x["thinking"].all_token_ids[state, : x["thinking"].total_len[state]].tolist()
            # The first of a request's tokens it came with, of all others the judge has heard as they were sampled.
            params, known = SamplingParams(stop_token_ids=stops, extra_args=said), self.rng.randrange(len(text) + 1)
            self.requests[str(request)] = SimpleNamespace(
                sampling_params=params, prompt_token_ids=text[:known], output_token_ids=[], sampled=text[known:]
            )
        self.unproposed = {request for request in self.requests if self.rng.random() < 0.05}
        self.seeded = [request for request in range(len(self.bounds)) if self.rng.random() < 0.3]

    def verify(self, *, judged: bool = True, rejects: bool = False) -> Any:
        """Lists of each request's tokens, its verdicts, and the log probabilities of the tokens."""
        sampler = vllm_rejection_sampler.RejectionSampler(Sampler())
        if judged:
            sampler.__class__ = JudgedRejectionSampler
            sampler.judge = self.judge
            batch = SimpleNamespace(req_ids=list(self.requests))
            sampler.runner = SimpleNamespace(requests=self.requests, input_batch=batch)
            sampler.thinking = self.thinking_states(sampler.runner) if self.markers is not None else None
            sampler.unproposed, sampler.hidden = self.unproposed, self.hidden
            if rejects:
                sampler.hidden = torch.full_like(self.hidden, torch.nan)  # no score is above any threshold
        torch.manual_seed(self.seed)
        sampling = self.sampling_metadata()
        output = sampler(self.metadata(), self.draft_probs(), self.logits.clone(), sampling)
        tokens, logprobs = sampler.parse_output(output.sampled_token_ids, self.vocab_size, (), output.logprobs_tensors)
        found = sampler.verdicts if judged else None
        verdicts = found.rows().tolist() if found else [[0] * max(self.num_drafts)] * len(tokens)
        return tokens, verdicts, logprobs

    def thinking_states(self, runner: SimpleNamespace) -> ThinkingStates:
        runner.execute_model = runner._sample = None
        runner.device = torch.device("cpu")
        runner.discard_request_mask = SimpleNamespace(gpu=torch.zeros(len(self.requests), dtype=torch.bool))
        states = ThinkingStates(runner, self.judge)
        states.begin()
        sampled = [torch.tensor(request.sampled, dtype=torch.int32) for request in self.requests.values()]
        states.advance(torch.nn.utils.rnn.pad_sequence(sampled, batch_first=True, padding_value=-1))
        return states

    def metadata(self) -> SpecDecodeMetadata:
        lengths = torch.tensor(self.num_drafts)
        return SpecDecodeMetadata(
            draft_token_ids=self.drafts,
            num_draft_tokens=self.num_drafts,
            cu_num_draft_tokens=lengths.cumsum(0).int(),
            cu_num_sampled_tokens=(lengths + 1).cumsum(0).int(),
            target_logits_indices=self.verifying.int(),
            bonus_logits_indices=self.bonus.int(),
            logits_indices=torch.arange(len(self.logits)),
        )

    def sampling_metadata(self) -> SamplingMetadata:
        greedy, zeros = self.temperature == 0.0, torch.zeros(len(self.bounds))
        seeded = {r: torch.Generator().manual_seed(self.seed + r) for r in self.seeded if self.temperature[r] > 0}
        return SamplingMetadata(
            temperature=self.temperature.clone(),
            all_greedy=bool(greedy.all()),
            all_random=not bool(greedy.any()),
            top_p=None,
            top_k=self.top_k,
            generators=seeded,
            max_num_logprobs=2 if self.seed % 2 else None,
            no_penalties=True,
            prompt_token_ids=None,
            frequency_penalties=zeros,
            presence_penalties=zeros,
            repetition_penalties=zeros + 1,
            output_token_ids=[[] for _ in self.bounds],
            allowed_token_ids_mask=self.forbidden,
            bad_words_token_ids={},
            logitsprocs=LogitsProcessors(),
        )

    def draft_probs(self) -> torch.Tensor | None:
        """[num_drafts, V]"""
        if self.draft_logits is None:
            return None
        temperature = self.temperature.where(self.temperature > 0, 1.0)
        rows = [
            (self.draft_logits[state, :n].float() / t).softmax(dim=-1)
            for state, n, t in zip(self.states, self.num_drafts, temperature, strict=True)
        ]
        return torch.cat(rows)

    def against_the_oracle(self) -> Iterator[tuple[Agreement, object, dict[str, Any]]]:
        """For each request: the agreement, what V1 found, and what the oracle was asked."""
        tokens, verdicts, _ = self.verify()
        for request, arguments in enumerate(self.oracle_arguments()):
            got = tokens[request], verdicts[request]
            yield compare(arguments, *got), got, arguments

    def oracle_arguments(self) -> Iterator[dict[str, Any]]:
        """The arguments of `reference.verify` for every request, with the random numbers that vLLM will draw."""
        constrained = self.logits.float()
        if self.forbidden is not None:
            constrained = constrained.masked_fill(self.forbidden[self.owners], -torch.inf)
        temperature = self.temperature.where(self.temperature > 0, 1.0)
        target = constrained / temperature[self.owners, None]
        if self.top_k is not None:
            for row, k in enumerate(self.top_k[self.owners].tolist()):
                kth = target[row].sort().values[-k]  # NaN is the largest, as in vLLM
                target[row] = target[row].masked_fill(target[row] < kth, -torch.inf)
        uniform, gumbel, bonus = self._draws()
        for request, ((first, end), state) in enumerate(zip(self.bounds, self.states, strict=True)):
            verifying, own = slice(first, end - 1), slice(first + 1, end)
            by_draft = slice(first - request, end - 1 - request)
            drafts = self.drafts[by_draft]
            read = reference.evidence(self.logits[verifying], drafts) if self.kind.with_evidence else None
            dial = self.judge.dial(self.requests[str(request)].sampling_params)
            protected = self.judge.protected.clone()
            protected[list(dial.stop_token_ids)] = True
            threshold = torch.inf if str(request) in self.unproposed else dial.threshold
            inside = torch.ones(len(drafts), dtype=torch.bool)
            if dial.thinking_only:
                inside = reference.inside_thinking(self.text(request), drafts, *self.markers)
            scores = self.judge.head.score(self.hidden[own], read)
            # What the judge accepts it boosts, which is the maximum of a row that holds nothing above all numbers.
            passes = (target[verifying].amax(dim=-1) < torch.inf) | ~(scores > threshold) | dial.shadow
            noise = gumbel[request].repeat(end - first, 1)
            noise[-1] = 0.0
            noise[-1, bonus[request]] = torch.inf
            yield {
                "target_logits": target[first:end],
                "draft_tokens": drafts,
                "judge_scores": scores,
                "judge_threshold": threshold,
                "allowed": reference.allowed(constrained[verifying], drafts, protected) & passes & inside,
                "temperature": self.temperature[request].item(),
                "draft_logits": None if self.draft_logits is None else self.draft_logits[state, : len(drafts)],
                "uniform": uniform[by_draft],
                "gumbel": noise,
                "shadow": dial.shadow and str(request) not in self.unproposed,
            }

    def text(self, request: int) -> list[int]:
        """The tokens before a request's drafts."""
        told = self.requests[str(request)]
        return [*told.prompt_token_ids, *told.sampled]

    def _draws(self) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """What vLLM draws, in its order: the bonus tokens, a uniform number for each draft, noise for each request."""
        torch.manual_seed(self.seed)
        sampling = self.sampling_metadata()
        bonus = (
            Sampler()(self.logits[self.bonus], sampling, predict_bonus_token=True).sampled_token_ids.flatten().tolist()
        )
        generators = sampling.generators
        uniform = vllm_rejection_sampler.generate_uniform_probs(
            len(self.drafts), self.num_drafts, generators, torch.device("cpu")
        )
        noise = torch.empty(len(self.bounds), self.vocab_size).exponential_()
        for request, generator in generators.items():
            if self.num_drafts[request]:
                noise[request].exponential_(generator=generator)
        return uniform.float(), -noise.log(), bonus

    def against_vllm(self) -> Iterator[tuple[object, object]]:
        """For each request: tokens with a judge that rejects all, and vLLM's; log probabilities too."""
        (tokens, verdicts, logprobs), (own, _, own_logprobs) = self.verify(rejects=True), self.verify(judged=False)
        counts = num_judge_only(torch.tensor(verdicts)).tolist()
        if logprobs is not None:
            same = all(_same(a, b) for a, b in zip(logprobs, own_logprobs, strict=True))
            yield f"log probabilities {same}", "log probabilities True"
        yield from zip(zip(tokens, counts, strict=True), ((one, 0) for one in own), strict=True)


def first_tokens(seed: int, kind: Kind, batch: Batch) -> torch.Tensor:
    """[num_reqs] the first token that leaves of each request, all of them judged at threshold 0."""
    case = Case(seed, kind, batch)
    judged = SimpleNamespace(sampling_params=SamplingParams(extra_args={"judge_threshold": 0.5}))
    case.requests, case.unproposed, case.seeded = dict.fromkeys(case.requests, judged), set(), []
    tokens, _, _ = case.verify()
    return torch.tensor([own[0] for own in tokens])


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None or isinstance(a, list):
        return bool(a == b)
    return torch.equal(torch.as_tensor(a).nan_to_num(7e7), torch.as_tensor(b).nan_to_num(7e7))
