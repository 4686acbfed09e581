"""Equations in text: what is read, what holds, what SymPy refutes. Values worked out by hand."""

import time
from fractions import Fraction

import pytest

from eval.equations import equations, holds, number, numbers_in, proved_different, replaced, value_of


@pytest.mark.parametrize(
    ("text", "left", "right", "true"),
    [
        ("She sold 48/2 = 24 clips.", "48 / 2", "24", True),
        ("Weng earns 12/60 = $0.2 per minute.", "12 / 60", "0.2", True),
        ("so (5+3 = 9)", "5 + 3", "9", False),
        ("(5 + 3) * 2 = 16", "( 5 + 3 ) * 2", "16", True),
        ("-5 + 3 = -2", "-5 + 3", "-2", True),
        ("3 - -5 = 8", "3 - -5", "8", True),
        ("65 − 70 = 5", "65 - 70", "5", False),
        ("There are 9 girls x 4 boys/girl = 36 boys", "9 * 4", "36", True),
        ("John has £69.00 - £11.00 = £58 left.", "69.00 - 11.00", "58", True),
        ("20% * 50 = 10", "20% * 50", "10", True),
        ("1,000 + 2,000 = 3,000", "1000 + 2000", "3000", True),
        ("10 / 3 = 3.33", "10 / 3", "3.33", True),
        ("10 / 3 = 3", "10 / 3", "3", None),
        ("10 / 3 = 4", "10 / 3", "4", None),
        ("12 / 3 = 5", "12 / 3", "5", False),
        ("2 / 3 = 0.66", "2 / 3", "0.66", True),
        ("100 - 5 = 95%", "100 - 5", "95%", True),
        ("25/100 x 100 = 25%", "25 / 100 * 100", "25%", True),
        ("2 cups / 1/4 cup = 8", "2 / 1 / 4", "8", True),
        ("2000 / 75 = 26.666666666666668", "2000 / 75", "26.666666666666668", True),
        ("$4.20 + $9.45 + $1.35 = $14.99", "4.20 + 9.45 + 1.35", "14.99", False),
        ("10 / 3 = 3.34", "10 / 3", "3.34", False),
        ("$4/week x 8 weeks = $32.", "4 * 8", "32", True),
        ("35 × 3 = 105 kiwi", "35 * 3", "105", True),
    ],
)
def test_arithmetic(text: str, left: str, right: str, true: bool | None) -> None:
    (e,) = equations(text)
    assert (e.left, e.right, e.unknown, holds(e)) == (left, right, "", true)
    assert e.result is not None and number(e.result.text) == value_of(right)


@pytest.mark.parametrize("joiner", ["\n", ". ", ". Then ", "; ", ", so ", " and then ", ".\n\n", "! ", "). ", ".  "])
@pytest.mark.parametrize("first", ["8 * 17 = 136", "$4 x 8 weeks = $32", "25/100 x 100 = 25%", "3.5 * 2 = 7.0"])
@pytest.mark.parametrize(
    "second", ["136 + 9 = 145", "(136 + 9) * 2 = 290", "$32 - $2 = $30", "-5 + 3 = -2", "9 - 4 = 6"]
)
def test_equations_in_one_line_are_those_of_two(first: str, second: str, joiner: str) -> None:
    found = equations(f"{first}{joiner}{second}. That is all.")
    assert [(e.left, e.right) for e in found] == [(e.left, e.right) for one in (first, second) for e in equations(one)]


# Each is a right statement of a public solution, of which a part looks like a false equation
PARTS = """The fee is $350 000 x 5/100 = $17 500.
He uses 600 x 30 = 18 000 watts
30% of 14,400 / 80 = 54
60 minutes, so it took 1 1/2 * 60 = 90 minutes
8 glasses, as 35 / 4 = 8 with a remainder of 3
4 / 3 = 1 and 1/3 hours
0900-0130 = 0730 hours
x = 5(7m + 3) + 3 = 35m + 15 + 3 = 35m + 18
x^2 - 64 = 0
3*X - 3*6 = 77
17 - 2b = 7, so 17 - 7 = 2b
364 \\times (1400 + 4) = 364 \\times 1400 + 1456
7 + 5 = 2 (mod 10)
the last digit: 7 * 7 = 9
10a + b = 10 \\times 3 + 8 = 38
21/7 = 90/x""".splitlines()


@pytest.mark.parametrize("text", PARTS)
def test_a_part_of_a_right_statement_is_not_false(text: str) -> None:
    assert not [e for e in equations(text) if holds(e) is False]


@pytest.mark.parametrize(
    "text", ["8/0 = 4", "5*4 = 20 = 10+10", "a fifth-grader is 11", "\\frac{1}{2} * 4 = 2", "x = y", "f(x) = 3", "= 5"]
)
def test_what_is_no_equation(text: str) -> None:
    assert equations(text) == []


def test_one_unknown() -> None:
    (e,) = equations("so 3x + 5 = 20.")
    assert (e.unknown, e.left, e.right) == ("x", "3x + 5", "20")
    assert holds(e) is None and holds(e, Fraction(5)) is True and holds(e, Fraction(4)) is False


def test_sympy_refutes_and_believes_nothing_it_cannot_read() -> None:
    assert proved_different("48 / 2", "25") and not proved_different("48 / 2", "24")
    assert not proved_different("0.1 + 0.2", "0.3"), "exact: no floating point"
    assert not proved_different("__import__('os')", "1") and not proved_different("sin(1)", "2")


def test_numbers_and_replacing() -> None:
    text = "from -3 to 1,200 and 0.5 in \\boxed{72}, not x2"
    assert [n.text for n in numbers_in(text)] == ["-3", "1,200", "0.5", "72"]
    assert replaced("a 12 b 3", [(2, 4, "x"), (7, 8, "yy")]) == "a x b yy"


@pytest.mark.parametrize("piece", ["1 + ", "((((", "9 apples ", "5x", "= 3 ", "1,000", "- - ", "x "])
def test_long_texts_cost_no_more_than_their_length(piece: str) -> None:
    start = time.monotonic()
    equations(piece * 4000)
    assert time.monotonic() - start < 2.0
