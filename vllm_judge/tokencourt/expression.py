"""Mathematics in a passage of an answer: the number, or the expression, that stands among its words."""

import re
import unicodedata

# Commands whose content is words, and what is left of a unit's power behind them.
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{")
_SEGMENT = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FUNCTIONS = "sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|arcsin|arccos|arctan|mod|min|max|gcd|lcm|or|and"
# Two letters side by side are a product; three are a word.
_WORD = re.compile(rf"(?<![A-Za-z\\])(?!(?:{_FUNCTIONS})(?![A-Za-z]))[^\W\d_]{{3,}}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}(?:\{[clr|]+\})?")
_OPERATORS = frozenset("+-*/^=<>()%")
_PUNCTUATION = " \t\n*_\"'`~"
_CURRENCY = re.compile(r"\\?[$€£¥₹₩₽]")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:[ ,\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]\d{3})+(?![\d,]|\s\d)")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]([-+]?\d+)(?!\w)")
# Times, dates, versions, lists, decimal commas: what a number's reader would take a part of, or calculate.
_NO_NUMBER = re.compile(r"\d\s*:\s*\d|\d{4}-\d\d-\d\d|\d\.\d+\.\d|,.")
_PERCENT = re.compile(r"\bper ?cent\b", re.IGNORECASE)
_CLAUSE_END = re.compile(
    r",\s+(?!\d|or\b|and\b|[\\$-])|;|\s(?:because|since|as|so|which|where|when|if)\b|\s\((?!\s*[-\d])"
)
_VULGAR = "½⅓⅔¼¾⅕⅛"
_FRACTIONS = {
    ord(one): r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", one).split("\N{FRACTION SLASH}"))
    for one in _VULGAR
}
_MIXED = re.compile(r"(?<![\w./])(\d+) (\d+)/(\d+)(?![\w./])")
_SIGNS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{MIDDLE DOT}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{ALMOST EQUAL TO}": "=",
        "\N{SQUARE ROOT}": r"\sqrt ",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
    }
)
_RANGE = re.compile(r"\d+-\d+")
LONGEST = 400  # characters of an expression


def number_in(passage: str, sentence: bool = False) -> str | None:
    """The one number of a passage, as LaTeX; None where there is none, or more than one.

    Words around it, its unit and currency are left out, and what stands before an equals sign. What a sentence begins
    with is the answer where a clause ends behind it: "9, because there are 3".
    """
    segments = _segments(passage)
    text = segments[0] if len(segments) == 1 and not _has_digit(_SEGMENT.sub(" ", passage)) else passage
    text = _GROUPED.sub(lambda found: re.sub(r"\D", "", found.group()), _tidy(without_text_commands(text)))
    text = _CURRENCY.sub(" ", text)
    if sentence and _is_mathematical((text.split() or ["the"])[0]):
        text = _CLAUSE_END.split(text, 1)[0]
    runs = [run for run in _runs(text) if _has_digit(run) or r"\pi" in run]
    if len(runs) != 1 or len(runs[0]) > LONGEST or _NO_NUMBER.search(runs[0]):
        return None
    if sentence and _RANGE.fullmatch(_stripped(runs[0])):
        return None
    number = _SCIENTIFIC.sub(r"\1 * 10^{\2}", _stripped(runs[0].rpartition("=")[2]))
    if not number or not (_is_balanced(number, "{}") and _is_balanced(number, "()")):
        return None
    percent = number.endswith("%") or _PERCENT.search(text)
    return number.rstrip("\\%") + (r"\%" if percent else "")


def whole(passage: str) -> str | None:
    """A passage that is an expression as it stands, as LaTeX; None where it holds words or is too long."""
    text = _stripped(_inner(passage))
    if not text or len(text) > LONGEST or _WORD.search(_without_texts(text)):
        return None
    return _tidy(text)


def announced(sentence: str) -> str | None:
    """The expression that a sentence gives: the only one between LaTeX's marks, or the sentence as it stands."""
    segments = _segments(sentence)
    return whole(segments[0]) if len(segments) == 1 else None if segments else whole(sentence)


def is_words(passage: str) -> bool:
    """Whether a passage says nothing but words, in LaTeX's text commands or without any."""
    return not re.search(r"\w", _without_texts(passage)) or (whole(passage) is None and not _has_digit(passage))


def has_mathematics(sentence: str, numeric: bool) -> bool:
    """Whether there is anything to read in a sentence: a digit, or any mathematics."""
    return _has_digit(sentence) or (not numeric and (bool(_segments(sentence)) or whole(sentence) is not None))


def braced(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes the one before it; None where none does."""
    depth = 1
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if not depth:
                return text[start:place]
    return None


def without_text_commands(text: str) -> str:
    """LaTeX's text commands replaced by what they hold."""
    while (found := _TEXT.search(text)) and (inside := braced(text, found.end())) is not None:
        behind = re.sub(r"^\^(?:\{[23]\}|[23])", " ", text[found.end() + len(inside) + 1 :])
        text = f"{text[: found.start()]} {inside} {behind}"
    return text


def _without_texts(text: str) -> str:
    while (found := _TEXT.search(text)) and (inside := braced(text, found.end())) is not None:
        text = text[: found.start()] + " " + text[found.end() + len(inside) + 1 :]
    return _COMMAND.sub(" ", _ENVIRONMENT.sub(" ", text))


def _segments(passage: str) -> list[str]:
    """What stands between LaTeX's marks; not between two signs of dollars in a sentence."""
    found = ["".join(filter(None, groups)) for groups in _SEGMENT.findall(passage)]
    return [one for one in found if not _WORD.search(_without_texts(one))]


def _inner(passage: str) -> str:
    segments = _segments(passage)
    return segments[0] if len(segments) == 1 and not _stripped(_SEGMENT.sub("", passage)) else passage


def _tidy(text: str) -> str:
    """One way of writing for signs, and none for LaTeX's spaces: they group digits, or mean nothing."""
    text = re.sub(r"\\!\s*", "", text).replace("{,}", ",")
    text = re.sub(r"(?<!\\)\\[,;: ]|~", " ", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text.translate(_FRACTIONS)).translate(_SIGNS)
    return unicodedata.normalize("NFKC", text) if re.search(r"[^\W_]", text) else text


def _stripped(text: str) -> str:
    text = text.strip(_PUNCTUATION)
    while text and text[-1] in ".,;:!?*_\"'` ":
        text = text[:-1]
    if text.startswith("(") and text.endswith(")") and _is_balanced(text[1:-1], "()") and "," not in text:
        text = text[1:-1]
    return text


def _is_balanced(text: str, brackets: str) -> bool:
    """Whether every bracket that opens is closed behind it, and no other is."""
    depth = 0
    for character in text:
        depth += (character == brackets[0]) - (character == brackets[1])
        if depth < 0:
            return False
    return depth == 0


def _runs(text: str) -> list[str]:
    """The longest rows of words that are mathematics."""
    runs: list[list[str]] = [[]]
    for word in text.split():
        if _is_mathematical(word):
            runs[-1].append(word)
        if runs[-1] and (not _is_mathematical(word) or word[-1] in ".;!?"):
            runs.append([])
    return [" ".join(run) for run in runs if run]


def _is_mathematical(word: str) -> bool:
    return _has_digit(word) or word[0] == "\\" or set(word) <= _OPERATORS


def _has_digit(text: str) -> bool:
    return any(character.isdecimal() or character in _VULGAR for character in text)
