"""Near duplicates: other LaTeX is the same problem, another number or another question is another problem."""

import json
import random
from pathlib import Path

import pytest

from curation.parallel import chunked, spread
from curation.stages.dedup import exact_dedup, is_same, near_dedup
from limo.data import Example, chat
from tests.conftest import split
from tests.disguises import OTHER, SEEN
from tests.growth import in_proportion

PARTS = ("three words dropped", "first half", "last sentence changed", "synonyms")  # found as leaks only


def row(key: str, question: str, answer: str = "5", completion: str = "") -> Example:
    return Example(key, chat(question), answer, completion)


CIRCLE = "Find the {} of the circle with equation $9x^2-18x+9y^2+36y+44=0$, which lies in the plane."


def test_other_latex_is_the_same_and_another_question_is_not() -> None:
    rows = [
        row("a", CIRCLE.format("radius"), "\\frac{1}{3}"),
        row("b", CIRCLE.format("radius").replace("$", "\\$")[:-1].replace("9x^2", "9 x^{2}"), "1/3"),
        row("c", CIRCLE.format("center"), "(1,-2)"),
        row("d", CIRCLE.format("radius").replace("44", "45"), "\\frac{1}{3}"),
        row("e", CIRCLE.format("center").replace("Find", "What is"), "(1, -2)"),
        row("f", "How many primes are there below $100$?", "25"),
    ]
    kept, dropped = split(near_dedup(rows))
    assert [r.id for r in kept] == ["a", "c", "d", "f"]
    assert [(d.id, d.reason, d.detail) for d in dropped] == [
        ("b", "same problem", "as a"),
        ("e", "same problem", "as c"),
    ]
    assert dropped[0].data["matched"]["problem"] == rows[0].question


GRAPH = "The graph of $y=ax^2+bx+c$ is below. Find $a$. [asy]draw({});[/asy]"
DIFFERENT = [  # a problem with two fillings
    ("Determine the number of ways to arrange the letters of the word {}.", ("PROOF",), ("RADII",)),
    ("How many of the first 30 numbers are divisible by {} but not by {}?", (3, 5), (5, 3)),
    (
        "What is the probability that the first card is {} and the second is {}?",
        ("an ace", "a heart"),
        ("a heart", "an ace"),
    ),
    ("Let $f$ be odd. Is ${}$ even, odd, or neither of the two?", ("f(f(x))",), ("f(f(f(x)))",)),
    (GRAPH, ("f",), ("g",)),
    ("If $a+b=7$ and $ab=12$ with $a<b$, find ${}$.", ("a",), ("b",)),
]
DIGIT = "What is the last digit of $7^{100}$, taken in base ten?"
SAME = [
    ("Find the value of $\\dfrac{1}{2}+x$ when $x = 3$.", "What is \\(\\frac12 + x\\) when \\(x=3\\)?"),
    ("How many values of $k$ are possible?", "Find the number of possible values of $k$."),
    (DIGIT, f"Question 3. {DIGIT}"),
    ("The graph is below. Find $a$ if $a + 2 = 5$. [asy]draw(f);[/asy]", "The graph is below. Find $a$ if $a+2=5$."),
]


@pytest.mark.parametrize(("text", "first", "second"), DIFFERENT)
def test_alike_and_with_one_answer_but_not_the_same(text: str, first: tuple[str], second: tuple[str]) -> None:
    one, other = text.format(*first), text.format(*second)
    assert not is_same(one, other) and not is_same(other, one)
    kept, _ = split(near_dedup([row("a", one), row("b", other)]))
    assert len(kept) == 2


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_in_other_words_of_asking(one: str, other: str) -> None:
    assert is_same(one, other) and is_same(other, one)


def test_another_chain_stays_as_a_rival() -> None:
    rows = [row("a", CIRCLE.format("radius"), "1", "one"), row("b", CIRCLE.format("radius") + " ", "1", "two")]
    kept, _ = split(near_dedup(rows))
    assert [r.id for r in kept] == ["a", "b"] and kept[0].problem == kept[1].problem != rows[1].problem


@pytest.mark.parametrize("name", [name for name in SEEN if name not in ("as it is", *PARTS)] + list(OTHER))
def test_planted_copies_of_real_problems(data: Path, name: str) -> None:
    problems = [
        r
        for r in json.loads((data / "pools" / "math_train.json").read_text())[:3000]
        if any(c.isdigit() for c in r["problem"])
    ]
    seeded = random.Random(0)
    rows = [row(f"m/{i}", r["problem"], str(r["answer"])) for i, r in enumerate(problems)]
    copies = [row(f"x/{i}", (SEEN | OTHER)[name](r.question, seeded), r.answer) for i, r in enumerate(rows[:600])]
    planted = [copy for copy, original in zip(copies, rows, strict=False) if copy.question != original.question]
    _, dropped = split(near_dedup([*rows, *planted]))
    found = sum(d.id.startswith("x/") for d in dropped)
    assert found == 0 if name in OTHER else found >= 0.95 * len(planted)
    assert sum(d.id.startswith("m/") for d in dropped) < 10


def hostile(size: int) -> dict[str, list[Example]]:
    """Pools that a comparison of all with all would take forever for."""
    template = "A train needs {} hours for {} km; how fast is it on the whole way in the end?"
    return {
        "template": [row(str(i), template.format(i % 97, i)) for i in range(size)],
        "one problem": [row(str(i), CIRCLE.format("radius"), str(i), f"chain {i}") for i in range(size)],
        "one word": [row(str(i), template.format("x", 3) + f" word{i}") for i in range(size)],
        "one letter": [row(str(i), "x " * (i % 50)) for i in range(size)],
        "long": [row(str(i), "a b " * 25_000 + str(i)) for i in range(size // 200)],
    }


@pytest.mark.parametrize("kind", list(hostile(0)))
@pytest.mark.parametrize("stage", [exact_dedup, near_dedup])
def test_twice_the_rows_take_twice_the_time(kind: str, stage) -> None:  # type: ignore[no-untyped-def]
    pools = {size: hostile(size)[kind] for size in (100, 1000, 4000)}

    def work(size: int) -> None:
        rows = pools[size]
        list(stage(rows))

    work(100)  # what is read once in a process
    assert in_proportion(work, 1000)


def square(values: list[int]) -> list[int]:
    return [value * value + _offset for value in values]


_offset = 0


def begin(offset: int) -> None:
    global _offset
    _offset = offset


def test_processes_give_what_one_gives_in_order() -> None:
    chunks = list(chunked(range(100), 7))
    alone = list(spread(square, chunks, start=begin, given=(3,), processes=1))
    assert alone == list(spread(square, chunks, start=begin, given=(3,), processes=2))
    assert [value for chunk in alone for value in chunk] == [i * i + 3 for i in range(100)]
    assert list(spread(square, [], processes=2)) == []
