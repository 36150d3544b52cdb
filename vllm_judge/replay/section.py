"""The section of a report on replayed texts: replay.json."""

from typing import Any

from pydantic import BaseModel

from vllm_judge.page.parts import Excerpt, Section
from vllm_judge.replay.page import METHOD, authors_table, distribution
from vllm_judge.replay.summary import AuthorSummary

REPLAYED = ("share_of_tokens", "accepted_per_cycle")


class ReplayedText(BaseModel):
    """A text in replay.json, as far as it is shown."""

    author: str
    prompt: str
    pieces: list[str]
    verdicts: list[str]


class ReplayFile(BaseModel):
    """replay.json of `vllm-judge replay`."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    definitions: dict[str, str]
    authors: list[AuthorSummary]
    texts: list[ReplayedText]

    def section(self) -> Section:
        drafts = self.settings["num_speculative_tokens"]
        firsts = {one.author: one for one in reversed(self.texts)}
        return Section(
            title=f"Replay of {self.settings['texts']}",
            method=METHOD,
            tables=[authors_table(self.authors)],
            pictures=[distribution(self.authors, drafts)],
            excerpts=[
                Excerpt(
                    f"First text of {one.author}",
                    firsts[one.author].prompt,
                    list(zip(firsts[one.author].verdicts, firsts[one.author].pieces, strict=True)),
                )
                for one in self.authors
            ],
            definitions={name: self.definitions[name] for name in REPLAYED},
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )
