"""The judge head: one linear layer on the target's last hidden state (Bachmann et al., ICLR 2025, section 4)."""

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin

from vllm_judge import hub
from vllm_judge.errors import HeadError
from vllm_judge.head_files import HIDDEN_STATES, HeadConfig, HeadFiles, shown

# The columns of `evidence`, in order (see kernels/reference.py, `evidence`).
EVIDENCE = ("log_prob", "entropy", "margin", "top_prob")


def logit(threshold: float) -> float:
    """The score that a probability `threshold` stands for: log(t / (1 - t)), with -inf at 0 and +inf at 1."""
    if threshold <= 0.0:
        return -math.inf
    if threshold >= 1.0:
        return math.inf
    return math.log(threshold / (1.0 - threshold))


def fingerprint(module: torch.nn.Module) -> str:
    """Tells a module from one that was trained further: a hash of its vectors (norms and biases, a head's weights)."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        if parameter.dim() <= 1:
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class JudgeHead(
    torch.nn.Module,
    PyTorchModelHubMixin,
    library_name="vllm-judge-decoding",
    tags=["judge-decoding", "speculative-decoding", "vllm"],
):
    """Scores whether a draft token is right where it stands.

    score(d) = weight . h + evidence . e + bias, in fp32; the judge accepts d when score(d) > logit(threshold).

    `h` is the target's hidden state at the draft token's own row, after the target has consumed the token: the input of
    its output layer (LM head), whatever the model does before it. `e` is what the target's own distribution said of the
    token one row earlier, where it was verified: (log p, entropy, log p_max - log p, p_max), in nats.

    Parameters (all fp32): `weight` [H], `bias` [], and, where `use_evidence`, `evidence` [4].

    Args:
        hidden_size: H, the width of what the target's output layer reads: as a rule its hidden size.
        use_evidence: whether the head reads the target's own distribution too.
        threshold: default acceptance threshold, a probability in [0, 1].
        target_model: the model whose hidden states the head was fitted on, and `target_revision`, its revision.
        hidden_states: the convention of the hidden states; only "own row, input of the output layer" exists.
        provenance: how the head was trained and measured; free form, kept in config.json.
        scores: its scores at calibration, the fields of `drift.CalibratedScores`.

    Attributes:
        source: where `from_pretrained` read the head: an absolute folder, or a Hub repository; `commit`, the commit of
            that repository. Empty, and None, for a head that was made here.

    Raises:
        HeadError: a value is of another type or out of range, or the convention is unknown.
    """

    source: str = ""
    commit: str | None = None

    def __init__(
        self,
        hidden_size: int,
        use_evidence: bool = False,
        threshold: float = 0.5,
        target_model: str | None = None,
        target_revision: str | None = None,
        hidden_states: str = HIDDEN_STATES,
        provenance: dict[str, Any] | None = None,
        scores: dict[str, Any] | None = None,
    ):
        super().__init__()
        config = HeadConfig.of(
            {
                "hidden_size": hidden_size,
                "use_evidence": use_evidence,
                "threshold": threshold,
                "target_model": target_model,
                "target_revision": target_revision,
                "hidden_states": hidden_states,
                "provenance": provenance,
                "scores": scores,
            }
        )
        self.hidden_size = config.hidden_size
        self.threshold = config.threshold
        self.target_model = config.target_model
        self.target_revision = config.target_revision
        self.provenance = config.provenance or {}
        self.scores = config.scores
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
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, **hub_options: Any
    ) -> "JudgeHead":
        """Loads a head, in fp32, for inference.

        Config and weights are of the same commit of a repository, even if it moves on meanwhile. Unlike the mixin's own
        loader this one never falls back to pickled weights.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a Hub repository.
            revision: revision of that repository; None is its main branch.
            hub_options: options of `huggingface_hub.hf_hub_download`, such as `token` and `cache_dir`.

        Raises:
            HeadError: no such head, a damaged one, or one that does not fit its config.json, in one sentence.
        """
        source = str(pretrained_model_name_or_path)
        try:
            files = HeadFiles.find(source, revision, hub_options)
            head = cls(**files.read_config().model_dump())
            head.load_state_dict(files.read_weights(head.state_dict()))
        except HeadError:
            raise
        except Exception as error:  # what files and networks can do has no end
            raise HeadError(f"the judge head in {shown(source)} cannot be read: {hub.reason(error)}") from error
        head.source, head.commit = files.source, files.commit
        return head.requires_grad_(False).eval()
