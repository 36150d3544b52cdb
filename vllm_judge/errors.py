"""The errors of this package: one family, and a member for each that somebody has to tell from the others."""


class JudgeError(Exception):
    """Something that the user can mend. The message says it, what was found and what to do; commands print just that.

    Only its subclasses are caught by name; whoever wants them all catches this.

    Attributes:
        exit_code: what a command ends with.
    """

    exit_code = 1


class JudgeConfigError(JudgeError, ValueError):
    """A speculative config that cannot work. vLLM and argparse show a ValueError's sentence as they show their own."""


class HeadError(JudgeError, ValueError):
    """A judge head that cannot be loaded or does not fit; a config puts the field that names it before the sentence."""


class DialError(JudgeError, ValueError):
    """A value in a request that means nothing; the engine answers that request with the sentence."""


class MaskError(JudgeError):
    """An answer whose label cannot be put on tokens; it is left out, and the others are not."""


class PromiseError(JudgeError):
    """A head that no threshold brings to keep its promise: nothing failed, and other heads may still."""

    exit_code = 3  # 2 is a wrong command line
