r"""The one judgement of a final answer: correct, wrong, or could not tell.

    grade("so it is \\boxed{\\frac{1}{2}}.", "0.5")  ->  Grade("correct", extracted="\\frac{1}{2}", how="number")

`extract.py` extracts the answer, `equal.py` compares it; docs/grading.md states the rules with examples.
From the command line: `python -m eval.grade file.jsonl` (`--help` says what it reads).
"""

import re
from dataclasses import dataclass, replace

from eval.grader.equal import equal
from eval.grader.extract import after_thinking, explicit, extract
from eval.grader.verdicts import Kind, Verdict
from limo.marks import boxed

__all__ = ["Grade", "Kind", "Verdict", "equal", "explicit", "extract", "grade"]


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict, on what, and which rule gave it."""

    verdict: Verdict
    extracted: str | None
    how: str
    cut_off: bool = False  # the completion was cut off by its length limit; judged all the same


def grade(completion: str, answer: str, *, kind: Kind = "math", cut_off: bool = False) -> Grade:
    """Judge the final answer of a completion against the reference.

    Args: `kind` says how the reference is meant (`eval.grader.equal.equal`); `cut_off` that the completion hit its
    length limit, which is kept with the grade. "unsure" means that the reference could not be read, or that the answer
    could not be worked out within bounds. Never raises, whatever the text; an answer that is a number is taken as its
    text, and a completion that is None as empty.
    """
    completion, answer = completion or "", answer if isinstance(answer, str) else str(answer)
    given = extract(completion)
    if given is None:
        return Grade("wrong", None, "no answer found", cut_off)
    verdict, how = equal(given, answer, kind)
    found = Grade(verdict, given, how, cut_off)
    return _several_boxes(completion, answer, kind, found) if how == "one answer for several" else found


_TAKEN_BACK = re.compile(r"\b(?:no|not|wrong|wait|instead|actually|incorrect|mistake|error|try|again)\b", re.IGNORECASE)


def _several_boxes(completion: str, answer: str, kind: Kind, found: Grade) -> Grade:
    """A reference of several answers, and a box for each of them somewhere in the completion."""
    text = after_thinking(completion)
    found_boxes = boxed(text)
    boxes = [box.text for box in found_boxes]
    joined = ", ".join(boxes)
    if len(boxes) < 2 or _TAKEN_BACK.search(text, found_boxes[0].end, found_boxes[-1].start):
        return found
    if equal(joined, answer, kind)[0] != "correct":
        return found
    return replace(found, verdict="correct", extracted=joined, how="a box for each answer")
