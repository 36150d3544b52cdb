"""The one error of training."""

from vllm_judge.tokencourt.errors import CourtError


class TrainingError(CourtError):
    """Hidden states or labels that no head can be fitted on; the message is a sentence for the user."""
