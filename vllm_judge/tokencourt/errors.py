"""The one base of this package's errors."""


class CourtError(Exception):
    """Something the user can mend; the message is one sentence: what was found, what to do."""
