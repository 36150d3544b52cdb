r"""The final-answer check, on the ways in which models end an answer.

It would catch: a number read to half (1.5e3 as 1.5, 2^{10} as 2), one taken from a remark behind the answer, a list
read as its first number, a verdict on what cannot be read, one answer that ends or holds up the run.
"""

import threading
import time

import pytest

from vllm_judge.tokencourt import mathematics
from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Verdict
from vllm_judge.tokencourt.final_answer import final_choice, is_readable, verdict_on

right, wrong, unknown = Verdict.right, Verdict.wrong, Verdict.unknown


@pytest.mark.parametrize(
    ("text", "reference", "verdict"),
    [
        ("3 * 4 = 12, and 12 / 5 = 2.4. The final answer is 12.", "12", right),
        ("7 pens\n#### 1,234", "1234", right),
        ("The answer is **-$5.50**", "-5.5", right),
        (r"so \boxed{\frac{1}{2}} of 8", "0.5", right),
        ("Answer: 2 + 3 = 5", "5", right),
        ("So 3 + 4 = <<3+4=7>>7 apples are left.", "7", right),
        ("Each gets 2.5/2 litres.", "1.25", right),
        ("The final answer is 3.", "2.5/2", wrong),
        (r"So \boxed{3,\!250}.", "3250", right),
        (r"So \boxed{3{,}250}.", "3250", right),
        ("The final answer is 3 250.", "3250", right),
        ("The final answer is 3\N{NARROW NO-BREAK SPACE}250.", "3250", right),
        (r"So \boxed{2\frac{1}{2}}.", "2.5", right),
        ("The final answer is 2½.", "2.5", right),
        ("The final answer is 2 1/2 hours.", "2.5", right),
        (r"The answer is $x = \frac12$.", "1/2", right),
        ("**Final Answer**\n\n42", "42", right),
        ("The answer to 2 + 3 is therefore 5.", "5", right),
        (r"\boxed{72\text{ clips}}", "72", right),
        (r"\boxed{5\text{ cm}^2}", "5", right),
        (r"The answer is \$5.50, because 11 / 2 = 5.5.", "5.5", right),
        ("The answer is 20 percent.", "20", right),
        ("The answer is 20%.", "0.2", right),
        ("The answer is 20%.", "2", wrong),
        ("The final answer is 1.5e3.", "1500", right),
        ("The final answer is 1.5e3.", "1.5", wrong),
        (r"The final answer is $3 \times 10^8$.", "3e8", right),
        ("The final answer is 1e-8.", "2e-8", wrong),
        ("The final answer is 0.", "1e-8", wrong),
        ("The final answer is 0.0.", "0", right),
        ("The final answer is $2^{10}$.", "2", wrong),
        (r"The final answer is $3\sqrt{2}$.", "3", wrong),
        ("The final answer is 3*sqrt(2).", "3", wrong),
        ("The final answer is 9. I hope this answers your 3 questions.", "9", right),
        ("The final answer is 9.\n\nI answered in 2 steps.", "9", right),
        ("The final answer is -2.", "2", wrong),
        # What cannot be read, or not in one way, is neither right nor wrong.
        ("The final answer is 4a - 2.", "4", unknown),
        ("The final answer is 10:30.", "10", unknown),
        ("The final answer is 3, 4 and 5.", "3", unknown),
        (r"\boxed{3, 4}", "3", unknown),
        ("The final answer is 3, or 4 where it rains.", "3", unknown),
        ("The final answer is 5-7.", "5", unknown),
        ("The final answer is 1.234.567.", "1.234", unknown),
        ("She earns $40 in 5 days.", "40", unknown),
        (r"The answer is \boxed{\frac{1}{0}}.", "1", unknown),
        ("The final answer is 0.33.", "1/3", unknown),
        (r"The final answer is $4.57 \times 10^{-24}$.", "4.6e-24", unknown),
        ("I do not know.", "3", unknown),
        # A reference that is no number tells nothing.
        (r"The final answer is \boxed{A}, option 1.", "A", unknown),
        (r"So \boxed{4a-2}.", "4a-2", unknown),
        ("The final answer is 7.", "None", unknown),
    ],
)
def test_a_number(text, reference, verdict):
    assert verdict_on(text, reference, Check.number) == verdict


@pytest.mark.parametrize(
    ("text", "reference", "verdict"),
    [
        (r"So \boxed{\frac{\sqrt{3}}{2}}.", r"\sqrt{3}/2", right),
        (r"The answer is $(x-1)(x+1)$.", "x^2 - 1", right),
        (r"\boxed{(-\infty, 3]}", r"(-\infty,3]", right),
        (r"\boxed{(-\infty, 3)}", r"(-\infty,3]", wrong),
        (r"\boxed{x \in [1,2)}", "[1,2)", right),
        (r"\boxed{2, 1}", r"\{1, 2\}", right),
        (r"It is \boxed{3} or \boxed{-2}.", "-2,3", right),
        (r"\boxed{(2, 1)}", "(1, 2)", wrong),
        (r"\boxed{\begin{pmatrix} \frac12 \\ -3 \end{pmatrix}}", r"\begin{pmatrix} 1/2 \\ -3 \end{pmatrix}", right),
        (r"\boxed{\frac{c}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}c", right),
        (r"\boxed{y = 2x + 3}", "2x+3", right),
        (r"\boxed{4a-2}", "4a-2", right),
        (r"\boxed{4a-2}", "4", wrong),
        (r"The answer is \boxed{\text{Even}}.", "even", right),
        (r"\boxed{C}", r"\text{(C)}", right),
        ("The answer is twice the radius.", "2r", unknown),
        ("The answer is 12 metres.", "12", right),
    ],
)
def test_an_expression(text, reference, verdict):
    assert verdict_on(text, reference, Check.math) == verdict


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("The final answer is (B).", "b"),
        ("**Answer: D**", "d"),
        ("It is\nC.", "c"),
        ("The final answer is B. Answer A is too small.", "b"),
        ("The answer is b.", "b"),
        ("the correct option is (c)", "c"),
        (r"The answer is \textbf{D}.", "d"),
        (r"\boxed{\text{(E) none of these}}", "e"),
        ("The answer is A because it is hot.", "a"),
        ("The answer is Ж.", "ж"),
        ("The answer is \N{FULLWIDTH LATIN CAPITAL LETTER B}.", "b"),
        ("I think A plant does", None),
        ("The answer is a plant.", None),
        ("The answer is not A.", None),
        ("The answer is Apple.", None),
    ],
)
def test_a_choice(text, choice):
    assert final_choice(text) == choice


@pytest.mark.parametrize(
    ("text", "reference", "verdict"),
    [
        (r"So \boxed{\frac{\sqrt{3}}{2}}.", r"\frac{\sqrt{3}}{2}", right),
        ("The answer is Cafe\N{COMBINING ACUTE ACCENT}.", "Caf\N{LATIN SMALL LETTER E WITH ACUTE}", right),
        ("The answer is (1,2).", "( 1, 2 )", right),
        ("The answer is St. Petersburg. I hope so.", "St. Petersburg", right),
        ("Answer: New   York", "new york", right),
        ("The answer is Rome.", "Paris", wrong),
        ("The answer is the city of Paris.", "Paris", unknown),
        ("Let me think.\nIt could be Rome.", "Paris", unknown),
    ],
)
def test_a_text(text, reference, verdict):
    assert verdict_on(text, reference, Check.exact) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Anna lives in Oslo.", right),
        ("From the text we learn that her home is in **OSLO**, Norway.", right),
        ("Anna lives in New\nYork, in the state of New York.", wrong),
        ("Anna lives in Oslo, not in Rome.", unknown),
        ("She has lived in Rome and New York.", wrong),
        ("Anna lives in Norway.", unknown),
        ("Anna is an Osloer and Romeo's sister.", unknown),
        ("", unknown),
    ],
)
def test_names(text, verdict):
    assert verdict_on(text, "Oslo | Rome | New York", Check.names) == verdict


@pytest.mark.parametrize(
    ("reference", "check", "readable"),
    [
        ("2.5/2", Check.number, True),
        ("1,000", Check.number, True),
        (r"\frac{\sqrt{3}}{2}", Check.number, True),
        ("4a-2", Check.number, False),
        ("A", Check.number, False),
        ("10:30", Check.number, False),
        ("1/0", Check.number, False),
        ("4a-2", Check.math, True),
        ("even", Check.math, True),
        (r"\frac{1}{", Check.math, False),
        ("B", Check.choice, True),
        ("(b)", Check.choice, True),
        ("BC", Check.choice, False),
        ("2", Check.choice, False),
        (" ", Check.exact, False),
        ("Oslo | Rome", Check.names, True),
        ("Oslo", Check.names, True),
        ("Oslo | ", Check.names, False),
        ("Oslo | Rome | oslo", Check.names, False),
    ],
)
def test_whether_a_reference_tells_right_from_wrong(reference, check, readable):
    assert is_readable(reference, check) == readable


@pytest.mark.parametrize("number", ["9" * 5000, "9^{9^{9^{9^9}}}", "(" * 150 + "1" + ")" * 150, r"\frac{" * 60])
def test_no_answer_holds_the_others_up(number):
    start = time.monotonic()
    assert verdict_on(rf"The answer is \boxed{{{number}}}.", "3", Check.number) != right
    assert time.monotonic() - start < 20
    assert verdict_on("The answer is 3.", "3", Check.number) == right


def test_threads_may_check_at_the_same_time():
    """The library's own time limits are signals, which only a program's main thread may set."""
    found: dict[int, Verdict] = {}

    def check(number: int) -> None:
        found[number] = verdict_on(f"The answer is {number % 5}.", str(number), Check.number)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(10)] == [right] * 5 + [wrong] * 5


def test_a_process_that_is_lost_is_replaced():
    assert verdict_on("The answer is 3.", "3", Check.number) == right
    process = mathematics._worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert verdict_on("The answer is 3.", "3", Check.number) in (right, unknown)
    assert verdict_on("The answer is 3.", "3", Check.number) == right
