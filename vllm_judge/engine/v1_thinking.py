"""Where requests' reasoning stands on model runner V1, for a judge that is confined to it."""

from typing import Any

import torch

from vllm_judge.engine.judge import Judge
from vllm_judge.engine.v1_layout import places_in_batch


class ThinkingStates:
    """The automaton's state (kernels/thinking.py) of every confined request, carried on from what each step samples.

    Symptom: under asynchronous scheduling the judge goes on behind the end of reasoning. Why: the host does not know
    the tokens of the last step when it launches the next. How: states stay on the device, and are carried on there by
    the tokens that were sampled; when a request comes, or comes again after a preemption, the host knows them all.
    Until: vLLM tells verifiers where reasoning ends.
    """

    def __init__(self, runner: Any, judge: Judge):
        """Watches the runner's steps."""
        assert judge.thinking is not None  # made only where vLLM was told what reasoning is
        self._runner, self._judge, self._automaton = runner, judge, judge.thinking
        # [] int32 each; None where the judge may accept everywhere.
        self._states: dict[str, torch.Tensor | None] = {}
        execute_model, sample = runner.execute_model, runner._sample

        def watched_execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            self.forget(scheduler_output)
            return execute_model(scheduler_output, *args, **kwargs)

        def watched_sample(*args: Any, **kwargs: Any) -> Any:
            self.begin()
            output = sample(*args, **kwargs)
            self.advance(output.sampled_token_ids)
            return output

        runner.execute_model, runner._sample = watched_execute_model, watched_sample

    def forget(self, scheduler_output: Any) -> None:
        """Drops requests that have ended, and those that come with all their tokens, anew or again."""
        added = (request.req_id for request in scheduler_output.scheduled_new_reqs)
        resumed = scheduler_output.scheduled_cached_reqs.resumed_req_ids
        for request in (*scheduler_output.finished_req_ids, *resumed, *added):
            self._states.pop(request, None)

    def begin(self) -> None:
        """Gives requests that are new in this step their state, from the tokens that they come with."""
        for name in self._runner.input_batch.req_ids:
            if name not in self._states:
                request = self._runner.requests[name]
                self._states[name] = None
                if self._judge.dial(request.sampling_params).thinking_only:
                    state = self._automaton.after([*(request.prompt_token_ids or ()), *request.output_token_ids])
                    self._states[name] = torch.full((), state, dtype=torch.int32, device=self._runner.device)

    def _confined(self) -> list[tuple[int, str, torch.Tensor]]:
        """Place in the batch, name and state."""
        names = enumerate(self._runner.input_batch.req_ids)
        return [(i, name, state) for i, name in names if (state := self._states[name]) is not None]

    def inside(self, drafts: torch.Tensor) -> torch.Tensor:
        """Which drafts a judge may accept: everywhere, or where the request is thinking before the draft and after it.

        Args:
            drafts: [num_requests, most drafts], -1 behind a request's own.

        Returns:
            [num_requests, most drafts] bool.
        """
        inside = torch.ones_like(drafts, dtype=torch.bool)
        if confined := self._confined():
            rows = places_in_batch(tuple(row for row, *_ in confined), drafts.device)
            states = torch.stack([state for *_, state in confined])
            for place, tokens in enumerate(drafts[rows].unbind(dim=1)):
                following = self._automaton.step(states, tokens)
                inside[rows, place] = (states & following & 1) > 0
                states = following
        return inside

    def advance(self, sampled: torch.Tensor) -> None:
        """Carries states on by what a step has sampled: [num_requests, most tokens], -1 behind a request's own."""
        if confined := self._confined():
            rows = places_in_batch(tuple(row for row, *_ in confined), sampled.device)
            states = torch.stack([state for *_, state in confined])
            # A request whose prompt is not read to its end has sampled nothing.
            discarded = self._runner.discard_request_mask.gpu[rows][:, None]
            for tokens in sampled[rows].masked_fill(discarded, -1).unbind(dim=1):
                states = self._automaton.step(states, tokens)
            for (_, name, _), state in zip(confined, states.unbind(), strict=True):
                self._states[name] = state
