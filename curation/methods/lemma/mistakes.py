"""Defines mistakes in a chain: the type, the first wrong step, and the chain.

The twelve types are those of LEMMA (arXiv 2503.17439v2, table 12), in our own words. A chain is read into steps with
their equations (`eval/equations.py`). A mistake is planted only in a chain whose equations all hold and whose last
equation gives the reference answer.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, ParamSpec, TypeVar

from curation.stage import drop
from curation.stages.chains import is_linked, split_steps
from eval.equations import Equation, equations, holds, number, numbers_in
from eval.grade import grade
from eval.grader.nodes import NUMERALS
from limo.data import Dropped, Example

TYPES = {
    "CA": ("calculation error", "the operation is the right one and its result is worked out wrongly"),
    "CO": ("counting error", "things are counted wrongly"),
    "CV": ("context value error", "a quantity is not the one that the problem states"),
    "HA": ("hallucination", "something is brought in that the problem does not say or that contradicts it"),
    "UC": ("unit conversion error", "a quantity is converted wrongly from one unit to another"),
    "OP": ("operator error", "one operation or one sign is the wrong one"),
    "FC": ("formula confusion error", "a formula is used where another one belongs"),
    "MS": ("missing step", "a step that is needed has been left out"),
    "CS": ("contradictory step", "a step disagrees with what an earlier step has found"),
    "QM": ("question misinterpretation", "what is asked, or a condition of it, is misunderstood"),
    "CC": ("confusing concept", "one concept is taken for a similar one"),
    "NO": ("nonsensical output", "the text is incoherent or beside the point"),
}

P = ParamSpec("P")
T = TypeVar("T")
_DECIMALS = 4  # places of a number that a person would write in a chain


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong solution and where it first goes wrong."""

    type: str  # a code of TYPES
    at: int  # index of the first wrong step
    steps: tuple[str, ...]  # of the whole wrong solution; joined they are its text
    said: str  # what is wrong, in a sentence or two
    proof: str  # the proof that the step is wrong
    wrong: str = ""  # the wrong equation, if there is one
    right: str = ""  # its correction

    @property
    def prefix(self) -> str:
        """The solution up to and including its first wrong step."""
        return "".join(self.steps[: self.at + 1]).rstrip()

    def to_notes(self) -> dict[str, Any]:
        """The form of `notes.error` in a row."""
        return {**asdict(self), "steps": list(self.steps)}

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Mistake":
        """The inverse of `to_notes`; other keys of the notes are ignored."""
        known = {name: notes[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "steps": tuple(notes["steps"])})


@dataclass(frozen=True, slots=True)
class Chain:
    """A right chain: its steps, the equations of each step, and the numbers that the problem states."""

    steps: tuple[str, ...]
    equations: tuple[tuple[Equation, ...], ...]
    given: frozenset[Fraction]  # the numbers that the problem states, in digits or in words
    answer: str


class Rejected(ValueError):
    """Raised for a chain, or a mistake in it, that cannot be used: a short fixed reason, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def dropped(self, row: Example) -> Dropped:
        """The row, dropped for this reason."""
        return drop(row, self.reason, self.detail)


def tried(make: Callable[P, T], *args: P.args, **settings: P.kwargs) -> T | Rejected:
    """Call a function. Returns its result, or the Rejected that it raised."""
    try:
        return make(*args, **settings)
    except Rejected as why:
        return why


def read_chain(row: Example) -> Chain:
    """The chain of a row. Raises Rejected if it cannot be shown to be right."""
    graded = grade(row.completion, row.answer)
    if graded.verdict != "correct":
        raise Rejected("the chain does not give the reference answer", f"{graded.extracted!r} for {row.answer!r}")
    steps = split_steps(row.completion)
    found = [tuple(equations(step)) for step in steps]
    listed = [e for each in found for e in each]
    if not listed:
        raise Rejected("no parsable step")
    for equation in listed:
        if equation.unknown or holds(equation) is not True:
            raise Rejected("a step of the chain is not right", f"{equation.left} = {equation.right}")
    last = listed[-1]
    if not is_linked(last, row.answer):
        raise Rejected("the last equation does not give the answer", f"{last.left} = {last.right} for {row.answer}")
    if len(found[-1]) and len(steps) < 2:
        raise Rejected("no step before the answer")
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", row.question)}
    given = {number(n.text) for n in numbers_in(row.question)} | {v for word, v in NUMERALS.items() if word in words}
    return Chain(tuple(steps), tuple(found), frozenset(given), row.answer)


def chain_number(value: Fraction, like: str = "") -> str:
    """A number in the notation of a chain, in percent if the number `like` is. Raises Rejected for a number that has no
    short notation.
    """
    if like.endswith("%"):
        return chain_number(value * 100) + "%"
    scaled = value * 10**_DECIMALS
    if scaled.denominator != 1 or abs(value) >= 10**12:
        raise Rejected("a wrong value that nobody would write", str(value))
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.{_DECIMALS}f}".rstrip("0")


def write_number(value: Fraction) -> str:
    """A number in the notation of `chain_number`, or as a fraction if it has none."""
    try:
        return chain_number(value)
    except Rejected:
        return str(value)
