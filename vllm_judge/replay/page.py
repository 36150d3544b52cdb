"""The page of a replay: every token coloured by what would accept it."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from vllm_judge.page.parts import Picture, Row, Table, estimate, number, percent, text
from vllm_judge.page.render import picture, render
from vllm_judge.replay.picture import draw
from vllm_judge.replay.summary import DEFINITIONS, RULES, VERDICTS, AuthorSummary, Replayed

METHOD = (
    "Texts that someone else wrote are fed to a target model as if they were drafts. Strict verification accepts a "
    "token that is the target's own choice; the judge accepts one that is right where it stands. Each token is read "
    "after the author's own words before it."
)
# Of each author. A page of many thousand tokens takes a browser long to lay out; replay.json has all texts.
TEXTS = 20


def authors_table(summaries: Sequence[AuthorSummary]) -> Table:
    """The summaries, a line an author."""
    rows = [
        Row(
            [
                text(one.author),
                number(one.texts, "d"),
                number(one.tokens, "d"),
                *(percent(one.share_of_tokens[verdict]) for verdict in VERDICTS),
                *(estimate(one.rules[rule].accepted_per_cycle) for rule in RULES),
            ]
        )
        for one in summaries
    ]
    columns = ["author", "texts", "tokens", *VERDICTS, *(f"accepted per cycle, {rule}" for rule in RULES)]
    return Table("Share of tokens in %, and accepted tokens per cycle, with 95% intervals", columns, rows)


def distribution(summaries: Sequence[AuthorSummary], num_speculative_tokens: int) -> Picture:
    """How many tokens a cycle accepts, as a picture for a page."""
    means = "; ".join(
        f"{one.author}: " + ", ".join(f"{rule} {one.rules[rule].accepted_per_cycle.value:.2f}" for rule in RULES)
        for one in summaries
    )
    return Picture(
        picture(functools.partial(draw, summaries=summaries, num_speculative_tokens=num_speculative_tokens)),
        f"Distribution of accepted tokens per cycle, one panel an author. Means: {means}.",
        f"Accepted tokens per cycle of {num_speculative_tokens} drafts.",
    )


def page(
    replayed: Sequence[Replayed],
    summaries: Sequence[AuthorSummary],
    tokenizer: PreTrainedTokenizerBase,
    about: Mapping[str, Any],
) -> str:
    """The page as HTML, self-contained.

    Args:
        about: `settings` (with num_speculative_tokens), `machine` and `command`, as in replay.json.
    """
    authors = {
        summary.author: [
            {"prompt": one.text.prompt, "tokens": _tokens(one, tokenizer)}
            for one in replayed
            if one.text.author == summary.author
        ][:TEXTS]
        for summary in summaries
    }
    return render(
        __package__,
        "replay.html.jinja",
        method=METHOD,
        table=authors_table(summaries),
        picture=distribution(summaries, about["settings"]["num_speculative_tokens"]),
        authors=authors,
        shown=sum(map(len, authors.values())),
        total=len(replayed),
        definitions=DEFINITIONS,
        about=about,
    )


def _tokens(one: Replayed, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """Of each token its verdict, its text as it is shown, and a line about it."""
    verdicts = one.verdicts
    columns = zip(
        verdicts.names,
        one.text.pieces,
        verdicts.probability,
        verdicts.judge_probability,
        verdicts.preferred,
        verdicts.preferred_probability,
        strict=True,
    )
    return [
        {
            "verdict": verdict,
            "piece": _visible(piece),
            "detail": f"“{_visible(piece)}”: {_verdict(verdict)}. "
            f"The target gives it {probability:.1%}, the judge {judge_probability:.1%}. "
            f"The target's choice: “{_visible(str(tokenizer.decode([preferred])))}”, {preferred_probability:.1%}.",
        }
        for verdict, piece, probability, judge_probability, preferred, preferred_probability in columns
    ]


def _verdict(name: str) -> str:
    return "rejected by both" if name == "rejected" else f"accepted by the {name}" + " test" * (name == "strict")


def _visible(piece: str) -> str:
    """A token as it is shown: line breaks are marked, and so is a token that only completes a character."""
    return piece.replace("\n", "⏎\n") or "◌"
