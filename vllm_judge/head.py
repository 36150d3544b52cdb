"""The judge head: one linear layer on the target's last hidden state (Bachmann et al., ICLR 2025, section 4)."""

import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from safetensors import SafetensorError
from safetensors.torch import load_file

from vllm_judge.errors import HeadError

# What `hidden` means to a head. There is one convention; a file that names another one is refused.
HIDDEN_STATES = "own row, after the final norm"
# The columns of `evidence`, in order (see kernels/reference.py, `evidence`).
EVIDENCE = ("log_prob", "entropy", "margin", "top_prob")


def logit(threshold: float) -> float:
    """The score that a probability `threshold` stands for: log(t / (1 - t)), with -inf at 0 and +inf at 1."""
    if threshold <= 0.0:
        return -math.inf
    if threshold >= 1.0:
        return math.inf
    return math.log(threshold / (1.0 - threshold))


class JudgeHead(
    torch.nn.Module,
    PyTorchModelHubMixin,
    library_name="vllm-judge-decoding",
    tags=["judge-decoding", "speculative-decoding", "vllm"],
):
    """Scores whether a draft token is right where it stands.

    score(d) = weight . h + evidence . e + bias, in fp32; the judge accepts d when score(d) > logit(threshold).

    `h` is the target's hidden state at the draft token's own row: after the target has consumed the token, after the
    final norm, the tensor that `compute_logits` gets. `e` is what the target's own distribution said of the token one
    row earlier, where it was verified: (log p, entropy, log p_max - log p, p_max), in nats.

    Parameters (all fp32): `weight` [H], `bias` [], and, where `use_evidence`, `evidence` [4].

    Args:
        hidden_size: H, the target's hidden size.
        use_evidence: whether the head reads the target's own distribution too.
        threshold: default acceptance threshold, a probability in [0, 1].
        target_model: the model whose hidden states the head was fitted on, and `target_revision`, its revision.
        hidden_states: the convention of the hidden states; only "own row, after the final norm" exists.
        provenance: how the head was trained and measured; free form, kept in config.json.

    Raises:
        HeadError: a value is out of range, or the convention is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        use_evidence: bool = False,
        threshold: float = 0.5,
        target_model: str | None = None,
        target_revision: str | None = None,
        hidden_states: str = HIDDEN_STATES,
        provenance: dict[str, Any] | None = None,
    ):
        super().__init__()
        if not isinstance(hidden_size, int) or hidden_size < 1:
            raise HeadError(f"hidden_size of a judge head must be a positive whole number, found {hidden_size!r}.")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
            raise HeadError(f"threshold of a judge head must be a number from 0 to 1, found {threshold!r}.")
        if hidden_states != HIDDEN_STATES:
            raise HeadError(
                f"hidden_states of a judge head must be {HIDDEN_STATES!r}, found {hidden_states!r}: "
                "fit the head again with this version's hidden states."
            )
        self.hidden_size = hidden_size
        self.threshold = float(threshold)
        self.target_model = target_model
        self.target_revision = target_revision
        self.provenance = provenance or {}
        self.weight = torch.nn.Parameter(torch.zeros(hidden_size, dtype=torch.float32))
        self.bias = torch.nn.Parameter(torch.zeros((), dtype=torch.float32))
        self.evidence = torch.nn.Parameter(torch.zeros(len(EVIDENCE))) if use_evidence else None

    def score(self, hidden: torch.Tensor, evidence: torch.Tensor | None = None) -> torch.Tensor:
        """Scores (log-odds) of tokens.

        Args:
            hidden: [..., H], any float dtype; the tokens' own rows.
            evidence: [..., 4] fp32, needed exactly when the head has `evidence` weights.

        Returns:
            [...] fp32; compare with `logit(threshold)`.
        """
        score = hidden.float() @ self.weight + self.bias
        if self.evidence is not None:
            if evidence is None:
                raise HeadError("this judge head reads evidence, and score() was called without it.")
            score = score + evidence.float() @ self.evidence
        return score

    forward = score

    def with_config(self, **config: Any) -> "JudgeHead":
        """A copy with the same weights and these fields: a head is saved with the fields that it was made with."""
        copy = JudgeHead(self.hidden_size, use_evidence=self.evidence is not None, **config).requires_grad_(False)
        copy.load_state_dict(self.state_dict())
        return copy.eval()

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        **model_kwargs: Any,
    ) -> "JudgeHead":
        """The mixin's loader, without its fallback to pickled weights and with every mismatch an error."""
        if Path(model_id).is_dir():
            path = str(Path(model_id) / SAFETENSORS_SINGLE_FILE)
            if not Path(path).is_file():
                raise HeadError(f"no judge head in {model_id}: it holds no {SAFETENSORS_SINGLE_FILE}.")
        else:
            path = hf_hub_download(
                model_id,
                SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        if "hidden_size" not in model_kwargs:
            raise HeadError(f"no judge head in {model_id}: its {CONFIG_NAME} is missing or names no hidden_size.")
        head = cls(**model_kwargs)
        try:
            state = load_file(path, device=map_location)
        except SafetensorError as error:
            raise HeadError(f"the judge head in {model_id} is damaged: {SAFETENSORS_SINGLE_FILE}: {error}.") from error
        expected = {name: tuple(parameter.shape) for name, parameter in sorted(head.state_dict().items())}
        found = {name: tuple(tensor.shape) for name, tensor in sorted(state.items())}
        if found != expected:
            raise HeadError(
                f"the judge head in {model_id} does not match its {CONFIG_NAME}: expected {expected}, found {found}."
            )
        if not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise HeadError(f"the judge head in {model_id} holds weights that are not finite.")
        head.load_state_dict(state)
        return head.float().requires_grad_(False).eval()
