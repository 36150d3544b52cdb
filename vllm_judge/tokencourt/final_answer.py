"""The final-answer check: is what a text ends with the reference?"""

import re
import unicodedata

from vllm_judge.tokencourt import expression, mathematics
from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Verdict

# "The answer is", "Answer:", "the final answer to the question is therefore", "**Final answer**" above a line, "####".
_MARKER = re.compile(
    r"####|\banswer\b[^.:=\n]{0,60}?(?:\b(?:is|are|be)\b(?:\s+(?:therefore|thus|then|simply))?\s*:?|:|=)[ \t*_]*"
    r"|\banswer\b[ \t*_]*(?=\n)",
    re.IGNORECASE,
)
# Of choices alone: an expression that is "correct", or the word alone, says too little.
_WEAK_MARKER = re.compile(r"\bcorrect\b[^.\n]{0,40}?\bis\b|\banswer\b", re.IGNORECASE)
_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_BETWEEN_BOXES = re.compile(r"[ $]*(?:(?:,|and|or|\\text\{\s*(?:and|or)\s*\})[ $]*){1,2}(?:\w+\s*=\s*)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\W*[^\W\d_a-z])")
_SAYS = re.compile(r"\b(?:is|are|be|equals)\b|:(?=\s)")
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's notes of what a calculator said
_CHOICE_WORD = r"(?:\\(?:text|textbf|mathrm|mathbf|textrm)\s*\{|option\b|choice\b|[\s*_(\[{\"'`$])*"
_CHOICE = re.compile(rf"{_CHOICE_WORD}(?P<letter>[^\W\d_])(?P<rest>.?.*)", re.IGNORECASE | re.DOTALL)
_ARTICLES = re.compile(r"\s+(?!(?:because|since|as|is|and|or|due|for)\b)\w", re.IGNORECASE)


def is_readable(reference: str, check: Check) -> bool:
    """Whether a check can tell a right answer from a wrong one by this reference.

    Raises:
        JudgeError: math-verify, which the checks `number` and `math` need, is not installed.
    """
    match check:
        case Check.choice:
            return _reference_letter(reference) is not None
        case Check.exact:
            return bool(_plain(reference))
        case Check.names:
            names = [_plain(name) for name in reference.split("|")]
            return all(names) and names[0] not in names[1:]
        case Check.math if expression.is_words(reference):
            return bool(_plain(reference))
        case Check.number | Check.math:
            gold = _reference_expression(reference)
            return mathematics.compare(gold, gold, check == Check.number) == Verdict.right


def verdict_on(text: str, reference: str, check: Check) -> Verdict:
    """Right or wrong by the final answer that a text gives; unknown where it gives none, or none that can be read.

    Raises:
        JudgeError: math-verify, which the checks `number` and `math` need, is not installed.
    """
    match check:
        case Check.choice:
            return _compare(final_choice(text), _reference_letter(reference))
        case Check.exact:
            return _exact(text, reference)
        case Check.names:
            return _names(text, reference)
        case Check.number | Check.math:
            return _mathematical(text, reference, check)


def final_choice(text: str) -> str | None:
    """The letter, folded, that a text gives as its answer: boxed, announced, or alone in the last line."""
    lines = text.strip().splitlines()
    alone = [lines[-1]] if lines and len(re.findall(r"\w+", re.sub(r"\\[a-z]+", " ", lines[-1]))) == 1 else []
    weak = [text[marker.end() :].split("\n", 1)[0] for marker in _WEAK_MARKER.finditer(text)]
    for passage in (*_boxes(text)[-1:], *_announced(text), *alone, *reversed(weak)):
        if (letter := _letter(passage)) is not None:
            return letter
    return None


def final_expression(text: str, numeric: bool) -> mathematics.Reading:
    """What a text gives as its mathematical answer, as LaTeX: read as a number, and as it stands.

    It is boxed, announced or, where nothing is, the only number of the last sentence that has one. Where an announced
    passage holds mathematics that cannot be cut out of its words there is nothing, rather than what stands elsewhere.
    """
    text = _CALCULATOR.sub("", text)
    if boxes := _boxes(text):
        return expression.number_in(boxes[-1]), expression.whole(boxes[-1])
    for passage in _announced(text):
        sentence = _SENTENCE_END.split(passage, 1)[0]
        if expression.has_mathematics(sentence, numeric):
            return expression.number_in(sentence, True), expression.announced(sentence)
    lines = text.strip().splitlines()
    for sentence in reversed(_SENTENCE_END.split(lines[-1]) if lines else []):
        if expression.has_mathematics(sentence, numeric=True):
            said = _SAYS.split(sentence)[-1]
            passage = said if expression.has_mathematics(said, numeric=True) else sentence
            return expression.number_in(passage, True), None
    return None, None


def _mathematical(text: str, reference: str, check: Check) -> Verdict:
    numeric = check == Check.number
    gold = _reference_expression(reference)
    if not numeric and expression.is_words(reference):
        return _exact(text, reference)
    found = final_expression(text, numeric)
    return Verdict.unknown if found == (None, None) else mathematics.compare(gold, found, numeric)


def _reference_expression(reference: str) -> mathematics.Reading:
    return expression.number_in(reference), expression.whole(reference)


def _exact(text: str, reference: str) -> Verdict:
    """Right where a passage is the reference; unknown where it holds the reference among other words."""
    wanted = _plain(reference)
    passages = _boxes(text)[-1:] or _announced(text)[:1] or [text]
    ends = [*(end.start() for end in _SENTENCE_END.finditer(passages[0])), None]
    variants = {_plain(passages[0][:end]) for end in ends}
    if not wanted or variants == {""}:
        return Verdict.unknown
    if wanted in variants:
        return Verdict.right
    cannot_be_cut_out = passages == [text] and "\n" in text.strip()
    holds = any(_holds(variant, wanted) for variant in variants)
    return Verdict.unknown if holds or cannot_be_cut_out else Verdict.wrong


def _names(text: str, reference: str) -> Verdict:
    """Right where a text names the first of the reference's names and no other, wrong where it names others alone."""
    text = _plain(text)
    first, *others = (_holds(text, _plain(name)) for name in reference.split("|"))
    if first == any(others):
        return Verdict.unknown
    return Verdict.right if first else Verdict.wrong


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _compare(found: str | None, wanted: str | None) -> Verdict:
    if found is None or wanted is None:
        return Verdict.unknown
    return Verdict.right if found == wanted else Verdict.wrong


def _boxes(text: str) -> list[str]:
    """The contents of \\boxed{...} and \\fbox{...}, braces within them matched; of several in a phrase together."""
    boxes: list[str] = []
    end = 0
    for box in _BOX.finditer(text):
        inside = expression.braced(text, box.end())
        if inside is None:
            continue
        if boxes and _BETWEEN_BOXES.fullmatch(text, end, box.start()):
            boxes[-1] += f", {inside}"
        else:
            boxes.append(inside)
        end = box.end() + len(inside) + 1
    return boxes


def _announced(text: str) -> list[str]:
    """The passages that a text announces as its answer, up to the end of their line, the last one first."""
    passages = [text[marker.end() :].lstrip().split("\n", 1)[0] for marker in _MARKER.finditer(text)]
    return passages[::-1]


def _letter(passage: str) -> str | None:
    """The letter that a passage begins with, folded, where it stands for a choice and not for a word."""
    found = _CHOICE.match(unicodedata.normalize("NFKC", passage))
    if not found:
        return None
    letter, rest = found["letter"], found["rest"]
    if re.match(r"[\w'\N{RIGHT SINGLE QUOTATION MARK}]", rest):
        return None
    stands_alone = not re.search(r"\w", rest.split("\n", 1)[0]) or re.match(r"[)\]}.:,;*_\"$]", rest)
    if letter.islower() and not stands_alone:
        return None
    if letter in ("A", "I") and not stands_alone and _ARTICLES.match(rest):
        return None
    return letter.casefold()


def _reference_letter(reference: str) -> str | None:
    return _letter(reference) if len(re.findall(r"\w", re.sub(r"\\[a-z]+", "", reference))) == 1 else None


def _plain(text: str) -> str:
    """A text without what does not count: case, composition, spacing, LaTeX's text commands, quotes, a full stop."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", expression.without_text_commands(text)).casefold())
    text = re.sub(r"\s*([^\w\s])\s*", r"\1", " ".join(text.split()))
    text = text.strip(" .*\"'$")
    return text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text
