r"""The one judgement of a final answer: correct, wrong, or could not tell.

    grade("so it is \\boxed{\\frac{1}{2}}.", "0.5")  ->  Grade("correct", extracted="\\frac{1}{2}", how="number")

`extract.py` extracts the answer, `equal.py` compares it; docs/grading.md states the rules with examples.
From the command line: `python -m eval.grade file.jsonl` (`--help` says what it reads).
"""

import re
from dataclasses import dataclass, replace

from eval.grader.equal import equal
from eval.grader.extract import explicit, extract, final_part, is_readable, within_sentence
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
    if "\\boxed" in answer:  # a worked solution as the reference
        answer = explicit(answer) or answer
    given = extract(completion)
    if given is None:
        found = Grade("wrong", None, "no answer found", cut_off)
    else:
        verdict, how = equal(given, answer, kind)
        found = Grade(verdict, given, how, cut_off)
        if how == "one answer for several":
            return _several_boxes(completion, answer, kind, found)
    return found if found.verdict == "correct" else _search_again(completion, answer, kind, found)


WHOLE = 200  # characters of a completion that may be an answer as a whole


def _search_again(completion: str, answer: str, kind: Kind, found: Grade) -> Grade:
    """An extraction that is a sentence is searched; a completion without marks may be the answer as it stands."""
    text = final_part(completion).strip()
    marked = explicit(completion) is not None
    again = [within_sentence(found.extracted)] if found.extracted and not is_readable(found.extracted) else []
    if len(text) <= WHOLE and not marked and text != found.extracted:
        again.append(text)
    for given in again:
        if given and equal(given, answer, kind)[0] == "correct":
            return replace(found, verdict="correct", extracted=given, how=equal(given, answer, kind)[1])
    return found


_TAKEN_BACK = re.compile(r"\b(?:no|not|wrong|wait|instead|actually|incorrect|mistake|error|try|again)\b", re.IGNORECASE)


def _several_boxes(completion: str, answer: str, kind: Kind, found: Grade) -> Grade:
    """A reference of several answers, and a box for each of them somewhere in the completion."""
    text = final_part(completion)
    found_boxes = boxed(text)
    boxes = [box.text for box in found_boxes]
    joined = ", ".join(boxes)
    if len(boxes) < 2 or _TAKEN_BACK.search(text, found_boxes[0].end, found_boxes[-1].start):
        return found
    if equal(joined, answer, kind)[0] != "correct":
        return found
    return replace(found, verdict="correct", extracted=joined, how="a box for each answer")
