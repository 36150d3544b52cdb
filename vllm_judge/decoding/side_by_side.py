"""A causal language model that reads texts side by side: a row of its cache a text, each with its own length."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from vllm_judge import output_layer
from vllm_judge.errors import JudgeError

ROWS, PLACES = 8, 64  # the cache grows by multiples of these


class SideBySide:
    """A model and what it remembers of the texts it reads, in rows numbered from 0."""

    def __init__(self, model: PreTrainedModel):
        """Raises JudgeError: the model has other layers than attention, full or in a sliding window."""
        self._model = model
        self._windows = _windows(model.config)
        self._cache = _RowCache()

    def logits(self, rows: slice, tokens: torch.Tensor, starts: torch.Tensor, keep: int) -> torch.Tensor:
        """Reads on in some texts; what a row held from `starts` on is forgotten.

        Args:
            rows: N rows, a slice from and to a number.
            tokens: [N, T] token ids. A text that has fewer than the others is padded behind its own: whoever reads on
                in that text starts in the padding's place.
            starts: [N] the place in its text of each row's first token.
            keep: of how many of the T places logits are wanted, the last ones.

        Returns:
            [N, keep, V] fp32.
        """
        return self._read(rows, tokens, starts, keep).logits.float()

    def logits_and_states(
        self, rows: slice, tokens: torch.Tensor, starts: torch.Tensor, keep: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and the hidden states of these places [N, keep, H] as the output layer reads them."""
        with output_layer.inputs(self._model) as seen:
            output = self._read(rows, tokens, starts, keep)
        return output.logits.float(), seen[0].to(output.logits.device)

    def _read(self, rows: slice, tokens: torch.Tensor, starts: torch.Tensor, keep: int) -> Any:
        device = self._model.device
        places = starts.to(device).unsqueeze(1) + torch.arange(tokens.shape[1], device=device)
        length = int(starts.max()) + tokens.shape[1]
        self._cache.turn_to(rows, places, length)
        return self._model(
            input_ids=tokens.to(device),
            position_ids=places,
            attention_mask=self._masks(places, length),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
            return_dict=True,
        )

    def copy(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Gives each of `rows` what the source beside it has read; no row is a source too."""
        if rows:
            self._cache.copy(list(sources), list(rows))

    def _masks(self, places: torch.Tensor, length: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """[N, 1, T, length] what is added to the attention's scores; a mask a kind of layer where there are several."""
        columns = torch.arange(length, device=places.device)
        queries = places[:, None, :, None]
        lowest = torch.finfo(self._model.dtype).min
        masks = {}
        for kind, window in self._windows.items():
            hidden = columns > queries
            if window is not None:
                hidden = hidden | (columns <= queries - window)
            zeros = torch.zeros(hidden.shape, dtype=self._model.dtype, device=places.device)
            masks[kind] = zeros.masked_fill_(hidden, lowest)
        return masks if len(masks) > 1 else next(iter(masks.values()))


class _RowCache(Cache):
    """Keys and values in place: a text that goes back in its row writes over what it takes back."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._kept: dict[int, list[torch.Tensor]] = {}  # of each layer keys and values [rows, heads, places, size]

    def turn_to(self, rows: slice, places: torch.Tensor, length: int) -> None:
        """What the coming pass writes and reads: `places` [N, T] of N rows, and the first `length` places of them."""
        self._rows, self._places, self._length = rows, places, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [N, heads, T, size] of a layer; returns all of the N texts, [N, heads, length, size] each."""
        kept = self._kept.setdefault(layer_idx, [states[:0, :, :0] for states in (key_states, value_states)])
        places = self._places.to(key_states.device)
        texts = torch.arange(places.shape[0], device=places.device).unsqueeze(1)
        for index, states in enumerate((key_states, value_states)):
            kept[index] = _grown(kept[index], self._rows.stop, self._length)
            kept[index][self._rows][texts, :, places] = states.transpose(1, 2)
        keys, values = (one[self._rows, :, : self._length] for one in kept)
        return keys, values

    def copy(self, sources: list[int], rows: list[int]) -> None:
        for kept in self._kept.values():
            for index, states in enumerate(kept):
                kept[index] = states = _grown(states, max(*sources, *rows) + 1, states.shape[2])
                states[rows] = states[sources]


def _grown(states: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """The same with more rows and places where it has too few: zeros, since masks need finite values."""
    if states.shape[0] >= rows and states.shape[2] >= length:
        return states
    rows, length = (-(-wanted // unit) * unit for wanted, unit in ((rows, ROWS), (length, PLACES)))
    size = max(rows, states.shape[0]), states.shape[1], max(length, states.shape[2]), states.shape[3]
    grown = states.new_zeros(size)
    grown[: states.shape[0], :, : states.shape[2]] = states
    return grown


def _windows(config: PreTrainedConfig) -> dict[str, int | None]:
    """The kinds of layers that a model has, each with its window."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    windows = {"full_attention": None, "sliding_attention": window}
    kinds = sorted(set(getattr(text, "layer_types", None) or ["sliding_attention" if window else "full_attention"]))
    if unknown := [kind for kind in kinds if kind not in windows]:
        raise JudgeError(
            f"{config.name_or_path} has layers of {' and '.join(unknown)}: the decoder in transformers needs full or "
            "sliding attention everywhere, to take back what was rejected."
        )
    return {kind: windows[kind] for kind in kinds}
