"""The three verdicts, and what the verdicts of parts come to for the whole."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

Verdict = Literal["correct", "wrong", "unsure"]
Told = tuple[Verdict, str]  # and the rule that told
# How a reference is meant. math: its sign of percent and its unit may be left out, as MATH's own graders allow; strict:
# they must be said; physics: as strict, and decimals are measurements; choice: a letter
Kind = Literal["math", "strict", "physics", "choice"]

MAX_UNLIKE = 20  # members of a list that are written unlike, each compared with each

T = TypeVar("T")


def told(same: bool, how: str, why: str = "") -> Told:
    """A verdict that is never unsure; `why` is said instead of `how` where it is wrong."""
    return ("correct", how) if same else ("wrong", why or how)


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Of parts that must all be right."""
    seen = set(verdicts)
    return "wrong" if "wrong" in seen else "unsure" if "unsure" in seen else "correct"


def matched(given: Sequence[T], reference: Sequence[T], same: Callable[[T, T], Told]) -> Verdict:
    """Whether each member of one is one member of the other. Members written alike pair off first, which is fast."""
    if len(given) != len(reference):
        return "wrong"
    left, missing = list(given), list[T]()
    for part in reference:
        if part in left:
            left.remove(part)
        else:
            missing.append(part)
    if len(missing) > MAX_UNLIKE:
        return "unsure"
    doubtful = False
    for part in missing:
        verdicts = [same(g, part)[0] for g in left]
        if "correct" not in verdicts:
            if "unsure" not in verdicts:
                return "wrong"
            doubtful = True
            continue
        left.pop(verdicts.index("correct"))
    return "unsure" if doubtful else "correct"
