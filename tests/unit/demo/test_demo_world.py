"""The demo's worlds: their checker, their splits, their tokenizer, their training documents.

It would catch: a checker that lets a wrong number, operator or person pass, or that rejects another right wording; a
mistake put one character off; a problem that is in both splits; a tokenizer that loses a
space; a document whose corrected slip is itself right, or teaches the model to make it; a change of the easy world,
whose models know no other; a stranger's number that the solution needs after all; a slip that is not where it is made.
"""

import hashlib
import random
import re
from itertools import accumulate

import pytest

from vllm_judge.demo.choices import World
from vllm_judge.demo.documents import MARKER, DocumentWriter, Habits
from vllm_judge.demo.families import FAMILIES, LARGEST
from vllm_judge.demo.harder import STRANGERS
from vllm_judge.demo.tokenizer import END, render_prompt, train_tokenizer
from vllm_judge.demo.world import first_mistake, is_correct, problems, solution, solution_pieces, split_of

PROBLEMS = problems(300, 0, "train")
EASY_WORLD = "4e0798b3cd7ccb69b3ea83ff9383d7f56a4c71d1e3b3b2e6e93d734aee04e5a3"  # SHA-256 of PROBLEMS, with solutions
HARDER = problems(300, 0, "train", World.HARDER)
WITH_STRANGERS = [
    (problem, index)
    for problem in HARDER
    for index, slot in enumerate(problem.slots)
    if slot.is_number and slot.confusable
]


@pytest.fixture(scope="module")
def tokenizer():
    rng = random.Random(0)
    return train_tokenizer(f"{problem.question} {solution(problem, rng.random(), rng)}" for problem in PROBLEMS)


@pytest.mark.parametrize("style_b", [0.0, 0.5, 1.0])
def test_every_solution_is_accepted_in_every_style(style_b):
    rng = random.Random(1)
    assert {problem.family for problem in PROBLEMS} == set(FAMILIES)
    for problem in PROBLEMS:
        text = solution(problem, style_b, rng)
        assert first_mistake(problem, text) is None
        assert is_correct(problem, text)


def test_any_other_digit_is_caught_where_it_stands():
    rng = random.Random(2)
    for problem in PROBLEMS[:60]:
        text = solution(problem, 0.5, rng)
        for match in re.finditer(r"\d", text):
            at = match.start()
            wrong = str((int(match[0]) + rng.randint(1, 9)) % 10)
            assert first_mistake(problem, text[:at] + wrong + text[at + 1 :]) == at


def test_wrong_words_are_caught_where_they_leave_all_right_readings():
    rng = random.Random(3)
    for problem in PROBLEMS[:60]:
        pieces = [rng.choice(slot.readings) for slot in problem.slots]
        for index, slot in enumerate(problem.slots):
            for wrong in slot.wrong:
                before = "".join(pieces[:index])
                mistake = first_mistake(problem, before + wrong + "".join(pieces[index + 1 :]))
                assert mistake is not None
                known = (before + wrong)[len(before) : mistake]
                assert any(reading.startswith(known) for reading in slot.readings)
                assert not any(reading.startswith(wrong[: len(known) + 1]) for reading in slot.readings)


def test_a_text_that_ends_early_or_runs_on_is_not_a_solution():
    problem = PROBLEMS[0]
    text = solution(problem, 0.0, random.Random(4))
    assert [first_mistake(problem, text[:end]) for end in range(len(text))] == list(range(len(text)))
    assert first_mistake(problem, text + " 1") == len(text)
    assert not is_correct(problem, text[: text.rindex(" The answer")])


def test_a_right_answer_counts_however_it_was_reached():
    problem = PROBLEMS[0]
    answer = problem.answer
    assert is_correct(problem, f"We go step by step. The answer is 0{MARKER} {answer} in all.")
    assert not is_correct(problem, f"We go step by step. The answer is {answer}{MARKER} {answer + 1} in all.")
    assert not is_correct(problem, f"{answer}")


def test_splits_never_share_a_problem_and_seeds_repeat():
    train = {problem.question for seed in range(3) for problem in problems(500, seed, "train")}
    test = {problem.question for seed in range(3) for problem in problems(500, seed, "test")}
    assert not train & test
    assert problems(50, 7, "test") == problems(50, 7, "test") != problems(50, 8, "test")
    assert {split_of(problem) for problem in problems(50, 7, "test")} == {"test"}


def test_numbers_stay_in_range():
    numbers = {int(slot.readings[0]) for problem in PROBLEMS for slot in problem.slots if slot.is_number}
    assert min(numbers) >= 1
    assert max(numbers) <= LARGEST


def test_text_survives_the_tokenizer_and_special_tokens_are_never_added(tokenizer):
    rng = random.Random(5)
    texts = [render_prompt(problem.question) + solution(problem, 0.5, rng) for problem in PROBLEMS[:50]]
    for text in [*texts, "  two  spaces,\n\ttabs, 3.14159, Zürich 東京 🙂 <b>"]:
        ids = tokenizer.encode(text, add_special_tokens=True)
        assert ids == tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    assert [len(tokenizer.encode(text)) for text in ("7", "42", " 42")] == [1, 2, 3]


def test_the_chat_template_renders_the_prompt(tokenizer):
    question = PROBLEMS[0].question
    messages = [{"role": "user", "content": question}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == render_prompt(question)


def tokens_to_mistake(problem, tokenizer, ids: list[int]) -> int:
    """How many tokens there are up to and with the one that holds the first mistake."""
    pieces = [tokenizer.decode([token]) for token in ids]
    mistake = first_mistake(problem, "".join(pieces))
    return next(count for count, end in enumerate(accumulate(map(len, pieces)), 1) if end > mistake)


def test_the_first_mistake_is_where_the_first_wrong_digit_is():
    problem = PROBLEMS[0]
    text = solution(problem, 0.0, random.Random(6))
    assert first_mistake(problem, text) is None
    place = [index for index, character in enumerate(text) if character.isdigit()][3]
    wrong = text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]
    assert first_mistake(problem, wrong) == place


def test_documents_hold_one_corrected_slip_that_has_no_weight(tokenizer):
    writer = DocumentWriter(tokenizer, Habits(styles=((1.0, 0.5),), corrections=1.0))
    marker = tokenizer.encode(MARKER)
    rng = random.Random(7)
    corrected = 0
    for problem in PROBLEMS:
        ids, weights = writer.solved(problem, rng)
        prompt = tokenizer.encode(render_prompt(problem.question))
        assert ids == tokenizer.encode(tokenizer.decode(ids))  # piece by piece is the whole
        assert ids[: len(prompt)] == prompt and tokenizer.decode(ids[-1:]) == END
        answer = ids[len(prompt) : -1]
        text = tokenizer.decode(answer)
        assert text.count(MARKER) <= 1
        assert is_correct(problem, text)
        if MARKER in text:
            corrected += 1
            after = tokens_to_mistake(problem, tokenizer, answer)
            assert answer[after : after + len(marker)] == marker  # right after the first wrong token
            assert weights[len(prompt) + after - 1] == 0.0
            assert all(weights[len(prompt) + after :])
    assert corrected > 0.9 * len(PROBLEMS)


def test_rows_of_facts_are_right(tokenizer):
    writer = DocumentWriter(tokenizer, Habits(styles=((1.0, 0.5),), corrections=0.0))
    ids, weights = writer.facts(400, random.Random(8))
    assert len(ids) == len(weights)
    words = {"plus": "+", "minus": "-", "times": "*", "divided by": "//", "equals": "==", "makes": "==", " = ": " == "}
    text = tokenizer.decode(ids).replace("/", "//")
    for word, symbol in words.items():
        text = text.replace(word, symbol)
    facts = [fact for fact in text.split(".") if fact]
    assert len(facts) > 20
    assert all(re.fullmatch(r"[\d +*/=-]+", fact) and eval(fact.strip()) for fact in facts)


def test_the_easy_world_is_the_one_its_models_were_trained_on():
    content = [(problem.question, problem.answer, solution(problem, 0.5, random.Random(9))) for problem in PROBLEMS]
    assert hashlib.sha256(repr(content).encode()).hexdigest() == EASY_WORLD


def test_every_solution_of_the_harder_world_is_accepted_in_any_mixture_of_styles():
    rng = random.Random(10)
    for problem in HARDER:
        for style_b, style_c in ((0.0, 0.0), (0.0, 1.0), (0.3, 0.4)):
            text = "".join(solution_pieces(problem, style_b, rng, style_c))
            assert first_mistake(problem, text) is None
            assert is_correct(problem, text)
    words = [slot for problem in HARDER for slot in problem.slots if not slot.is_number and not slot.wrong]
    assert min(len(slot.styles[2]) for slot in words) > len(words[0].styles[0] + words[0].styles[1])


def test_a_strangers_number_has_no_part_in_the_solution():
    assert len(WITH_STRANGERS) == pytest.approx(STRANGERS * len(HARDER), rel=0.2)
    for problem, index in WITH_STRANGERS:
        [(right, wrong)] = problem.slots[index].confusable.items()
        told = re.findall(r"\d+", problem.question)
        assert told.count(wrong.strip()) == 1 and told.index(wrong.strip()) > told.index(right.strip())
        assert wrong not in {reading for slot in problem.slots for reading in slot.readings if slot.is_number}
        stranger = re.search(rf"(\w+) \w+{wrong}", problem.question)[1]
        assert stranger not in solution(problem, 0.5, random.Random(11))


def test_a_slip_is_the_first_mistake_where_it_is_made():
    rng = random.Random(12)
    for problem in HARDER:
        pieces = solution_pieces(problem, 0.1, rng, 0.8)
        for index, slot in enumerate(problem.slots):
            if pieces[index] in slot.confusable:
                before, slip = "".join(pieces[:index]), slot.confusable[pieces[index]]
                mistake = first_mistake(problem, before + slip + "".join(pieces[index + 1 :]))
                assert len(before) < mistake < len(before + slip)


def test_no_problem_of_one_world_is_in_the_other_split_of_the_other():
    for split, other in (("train", "test"), ("test", "train")):
        asked = {problem.question for problem in problems(1000, 0, split)}
        assert not asked & {problem.question for problem in problems(1000, 0, other, World.HARDER)}


def test_a_slip_of_the_models_own_has_weight_and_is_taken_back_or_ends_the_document(tokenizer):
    habits = Habits(styles=((1.0, 0.0, 0.0),), corrections=0.0, distracted=1.0, noticed=0.5)
    writer, rng = DocumentWriter(tokenizer, habits), random.Random(13)
    marker, noticed = tokenizer.encode(MARKER), 0
    for problem, _ in WITH_STRANGERS:
        ids, weights = writer.solved(problem, rng)
        start = len(tokenizer.encode(render_prompt(problem.question)))
        assert all(weights[start:])
        after = ids[start + tokens_to_mistake(problem, tokenizer, ids[start:]) :]
        if after[: len(marker)] == marker:
            noticed += 1
            assert is_correct(problem, tokenizer.decode(ids[start:-1]))
        else:
            assert MARKER not in tokenizer.decode(after) and END not in tokenizer.decode(after)
    assert noticed == pytest.approx(len(WITH_STRANGERS) / 2, rel=0.25)


def test_the_turn_to_words_that_are_only_read_has_no_weight(tokenizer):
    habits = Habits(styles=((0.0, 0.0, 0.0),), read=((1.0, 0.0, 1.0),), corrections=0.0)
    writer, rng = DocumentWriter(tokenizer, habits), random.Random(14)
    for problem in HARDER[:50]:
        ids, weights = writer.solved(problem, rng)
        start = len(tokenizer.encode(render_prompt(problem.question)))
        turns = [token for token, weight in zip(ids[start:], weights[start:], strict=True) if not weight]
        only_c = [style_c for a, b, style_c in (slot.styles for slot in problem.slots) if not {*style_c} <= {*a, *b}]
        assert len(turns) == len(only_c)
        for token, readings in zip(turns, only_c, strict=True):
            assert any(reading.startswith(tokenizer.decode([token])) for reading in readings)
