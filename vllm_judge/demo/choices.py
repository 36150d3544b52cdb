"""What the user of the demo chooses among; without imports, so that commands start at once."""

from enum import StrEnum


class World(StrEnum):
    """What is asked and how it is worded: `easy` is the demo's own, `harder` one where fixed bars on p fail."""

    EASY = "easy"
    HARDER = "harder"
