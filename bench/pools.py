r"""Pools whose truth is known: problems of a few kinds, with good and spoiled chains that all end in the right answer.

    rows = make_pool(Random(0), Mixture(...))

Each kind is simple enough for a model of 135M weights to learn in minutes, and has three ways of writing a right chain:
line by line, in other words, and long. What was done to a chain stands in `made`: clean, wording, long, duplicate, the
flaws of `curation/stages/flaws.py`, or `wrong` for a wrong answer, which `verify` has to find. No score may read it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from curation.stages.flaws import spoil
from limo.data import Example

LEGS = {"dog": 4, "bird": 2, "ant": 6, "spider": 8, "cat": 4, "duck": 2, "horse": 4, "bee": 6}
GOOD = {"clean": 0.60, "long": 0.16, "wording": 0.16, "duplicate": 0.08}  # shares among the chains that are not spoiled
SPOILED = {"false step": 0.60, "steps left out": 0.15, "other chain": 0.15, "filler": 0.10}
RIVALS = (2, 3, 4)  # chains of a problem


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and its equations in order, the last of which has the answer on its right."""

    kind: str
    question: str
    steps: tuple[tuple[str, int], ...]  # left side, value

    @property
    def answer(self) -> int:
        """The value of the last step."""
        return self.steps[-1][1]


def _sum(rng: Random) -> Problem:
    values = [rng.randint(1, 60) for _ in range(rng.choice((2, 3)))]
    text, total, steps = str(values[0]), values[0], []
    for value in values[1:]:
        sign = rng.choice("+-") if total >= value else "+"
        steps.append((f"{total} {sign} {value}", total + value if sign == "+" else total - value))
        text, total = f"{text} {sign} {value}", steps[-1][1]
    return Problem("sums", f"What is {text}?", tuple(steps))


def _product(rng: Random) -> Problem:
    one, tens, units = rng.randint(2, 9), 10 * rng.randint(1, 4), rng.randint(1, 9)
    parts = (f"{one} * {tens}", one * tens), (f"{one} * {units}", one * units)
    total = f"{one * tens} + {one * units}", one * (tens + units)
    return Problem("products", f"What is {one} * {tens + units}?", (*parts, total))


def _legs(rng: Random) -> Problem:
    animals = rng.sample(sorted(LEGS), 2)
    counts = [rng.randint(2, 9) for _ in animals]
    products = [(f"{n} * {LEGS[a]}", n * LEGS[a]) for n, a in zip(counts, animals, strict=True)]
    total = f"{products[0][1]} + {products[1][1]}", products[0][1] + products[1][1]
    listed = " and ".join(f"{n} {a}s" for n, a in zip(counts, animals, strict=True))
    return Problem("legs", f"How many legs do {listed} have?", (*products, total))


def _equation(rng: Random) -> Problem:
    factor, x, added = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 20)
    total = factor * x + added
    steps = (f"{total} - {added}", factor * x), (f"{factor * x} / {factor}", x)
    return Problem("equations", f"Solve {factor}x + {added} = {total} for x.", steps)


def _remainder(rng: Random) -> Problem:
    divisor, times = rng.randint(3, 9), rng.randint(2, 9)
    value = divisor * times + rng.randrange(divisor)
    steps = (f"{divisor} * {times}", divisor * times), (f"{value} - {divisor * times}", value - divisor * times)
    return Problem("remainders", f"What is the remainder of {value} divided by {divisor}?", steps)


MAKERS: Mapping[str, Callable[[Random], Problem]] = {
    "sums": _sum,
    "products": _product,
    "legs": _legs,
    "equations": _equation,
    "remainders": _remainder,
}


def write_chain(problem: Problem, style: str) -> str:
    """A right chain: clean, wording or long."""
    equations = [f"{left} = {value}" for left, value in problem.steps]
    if style == "wording":
        first, *rest = equations
        return " ".join([f"First, {first}.", *(f"Then {e}." for e in rest), f"So we get \\boxed{{{problem.answer}}}."])
    if style == "long":
        lines = [
            line
            for (left, value), e in zip(problem.steps, equations, strict=True)
            for line in (f"We need {left}.", e, f"This gives {value}.")
        ]
        equations = ["We go step by step.", *lines, f"The last value is {problem.answer}."]
    return "\n".join([*equations, f"The answer is \\boxed{{{problem.answer}}}."])


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a pool is made of."""

    problems: int
    kinds: Mapping[str, float]  # shares of the kinds
    spoiled: float  # share of the chains with a right answer that have a flaw
    wrong: float  # share of all chains whose answer is wrong


def draw_problems(rng: Random, kinds: Mapping[str, float], count: int, seen: set[str]) -> list[Problem]:
    """`count` problems that are not in `seen`, which grows by them; as many of each kind as its share says."""
    found = list[Problem]()
    for kind, share in kinds.items():
        wanted, tries = round(share * count), 0
        while wanted and tries < 100_000:
            tries, problem = tries + 1, MAKERS[kind](rng)
            if problem.question not in seen:
                seen.add(problem.question)
                found.append(problem)
                wanted -= 1
    rng.shuffle(found)
    return found


def make_pool(rng: Random, mixture: Mixture, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of a pool: problem, chain, answer, kind and made."""
    problems = draw_problems(rng, mixture.kinds, mixture.problems, seen)
    clean = [_example(problem, number) for number, problem in enumerate(problems)]
    for problem, row in zip(problems, clean, strict=True):
        for _ in range(rng.choice(RIVALS)):
            made, chain = _draw_chain(rng, problem, row, clean, mixture)
            yield {
                "problem": problem.question,
                "chain": chain,
                "answer": str(problem.answer),
                "topic": problem.kind,
                "made": made,
            }


def _draw_chain(
    rng: Random, problem: Problem, row: Example, rivals: list[Example], mixture: Mixture
) -> tuple[str, str]:
    if rng.random() < mixture.wrong:
        right = f"\\boxed{{{problem.answer}}}"
        return "wrong", row.completion.replace(right, f"\\boxed{{{problem.answer + rng.choice((-10, -1, 1, 10))}}}")
    if rng.random() < mixture.spoiled:
        flaw = rng.choices(list(SPOILED), list(SPOILED.values()))[0]
        if spoiled := spoil(row, flaw, rivals, rng):
            return flaw, spoiled.completion
    style = rng.choices(list(GOOD), list(GOOD.values()))[0]
    return style, write_chain(problem, "clean" if style == "duplicate" else style)


def _example(problem: Problem, number: int) -> Example:
    prompt = [{"role": "user", "content": problem.question}]
    return Example(f"made/{number}", prompt, str(problem.answer), write_chain(problem, "clean"), source="made")
