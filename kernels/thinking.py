"""Whether a request is inside its reasoning part, token by token (`reference.thinking`), as a finite automaton.

A state is a number: how much of a marker the text's end is, and in its lowest bit whether the text is thinking. All
tokens that occur in no marker are one class, so that the table of transitions is a few numbers, whatever the
vocabulary (Aho and Corasick, CACM 1975).
"""

from collections.abc import Sequence

import numpy as np
import torch


class ThinkingAutomaton:
    """The automaton of one pair of markers.

    Attributes:
        token_class: [V] uint8, 0 for a token of no marker.
        transition: [num_states * num_classes] int32, the next state after state s and a token of class c at
            s * num_classes + c.
        num_classes: of tokens.
    """

    def __init__(self, start: Sequence[int], end: Sequence[int], vocab_size: int):
        """start, end: the tokens that begin and end reasoning."""
        self._start, self._end = tuple(start), tuple(end)
        tokens = sorted({*start, *end})
        self._class = {token: i for i, token in enumerate(tokens, 1)}
        self.num_classes = len(tokens) + 1
        self.token_class = torch.zeros(vocab_size, dtype=torch.uint8)
        for token, number in self._class.items():
            if 0 <= token < vocab_size:
                self.token_class[token] = number
        beginnings = list(dict.fromkeys(m[:length] for m in (self._start, self._end) for length in range(len(m) + 1)))
        self._number = {beginning: i for i, beginning in enumerate(beginnings)}
        rows = [
            [self._next(beginning, thinking, token) for token in (None, *tokens)]
            for beginning in beginnings
            for thinking in (False, True)
        ]
        self.transition = torch.tensor(rows, dtype=torch.int32).flatten()

    def _next(self, beginning: tuple[int, ...], thinking: bool, token: int | None) -> int:
        read = () if token is None else (*beginning, token)
        if read and read[-len(self._end) :] == self._end:
            thinking = False
        elif read and read[-len(self._start) :] == self._start:
            thinking = True
        return 2 * self._number[self._kept(read)] + thinking

    def _kept(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The longest end of tokens that a marker begins with."""
        return next(tokens[i:] for i in range(len(tokens) + 1) if tokens[i:] in self._number)

    def to(self, device: torch.device) -> "ThinkingAutomaton":
        self.token_class, self.transition = self.token_class.to(device), self.transition.to(device)
        return self

    def after(self, tokens: Sequence[int]) -> int:
        """The state of a text."""
        text = np.asarray(tokens, dtype=np.int64)
        thinking = _last(text, self._start) > _last(text, self._end)
        longest = max(len(self._start), len(self._end))
        ending = tuple(text[max(0, len(text) - longest) :].tolist())
        return 2 * self._number[self._kept(ending)] + thinking

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The next states [N] int32, on the device, after one token each [N]; a negative token changes nothing."""
        classes = self.token_class[tokens.long().clamp(min=0)].int()
        following = self.transition[(states * self.num_classes + classes).long()]
        return torch.where(tokens >= 0, following, states)


def _last(text: np.ndarray, marker: tuple[int, ...]) -> int:
    """Where the last occurrence of a marker ends, -1 where there is none."""
    places = np.arange(len(marker), len(text) + 1)
    for offset, token in enumerate(marker):
        places = places[text[places - len(marker) + offset] == token]
    return int(places[-1]) if len(places) else -1
