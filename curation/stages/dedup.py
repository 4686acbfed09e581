"""Deduplicates problems: first exact duplicates, then problems that are reworded or typeset differently. For millions
of rows.

All rows of one problem get the `problem` id of the first. A row with another chain is kept: it is a rival of the first
row's chain, and a later stage chooses between them.

Exact duplicates have answers that agree and the same tokens, ignoring question words ("find", "what is the value of").
Near duplicates are problems that `curation/matching/match.py` finds to be the same, with agreeing answers. Problems
that differ in their numbers are different problems.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from curation.matching.candidates import Sketches, find_pairs
from curation.matching.match import Text, align
from curation.matching.similar import ASKING, SILENT, digest, split_drawings, squeezed, tokenize
from curation.stage import drop, stage
from eval.grade import equal
from limo.data import Dropped, Example, Row

FIRSTS = 8  # most problems with the same words and different answers that a row is compared with


@stage("pool")
def exact_dedup(rows: Iterable[Example], /) -> Iterator[Row]:
    """Drop rows that repeat an earlier problem and chain; question words, LaTeX spelling and white space are ignored.

    Another chain of an earlier problem stays as a rival. If rows of one text have different answers, only rows with the
    majority's answer stay, and without a majority none. Goes through `rows` three times and holds a few numbers per
    row, so that a million rows fit.
    """
    groups = group_equal(array("Q", (digest(canonical(row.question)) for row in rows)))
    answers: dict[int, list[str]] = {}
    firsts: dict[int, list[tuple[int, str]]] = {}  # of each group, the position and the answer
    earlier: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        if at not in groups:
            continue
        known = firsts.setdefault(groups[at], [])
        earlier[at] = [first for first, answer in known if same_answer(row.answer, answer)][:1]
        if not earlier[at] and len(known) < FIRSTS:
            known.append((at, row.answer))
        if row.answer:
            answers.setdefault(digest(squeezed(row.question)), []).append(row.answer)
    right = {text: majority(listed) for text, listed in answers.items()}
    yield from merged(_undisputed(rows, earlier, right), earlier, lambda row, first: True)


def canonical(text: str) -> str:
    """A canonical form, equal for texts of the same problem: their tokens without question words, and the words of
    their drawings.
    """
    found = (part.lower() if len(part) > 1 and part.isalpha() else part for part in tokenize(text))
    return " ".join([*(part for part in found if part not in ASKING and part not in SILENT), split_drawings(text)[1]])


def _undisputed(rows: Iterable[Example], groups: Container[int], right: Mapping[int, str | None]) -> Iterator[Row]:
    """Yield the rows, with a Dropped in place of each row whose answer differs from that of the majority."""
    for at, row in enumerate(rows):
        answer = right.get(digest(squeezed(row.question)), "") if at in groups else row.answer
        if answer is not None and same_answer(row.answer, answer):
            yield row
        else:
            others = (
                f"of most others it is {answer!r}" if answer is not None else "others have another, none a majority"
            )
            detail = f"its answer is {row.answer!r}, {others}"
            yield drop(row, "same problem, another answer", detail)


def majority(answers: Sequence[str]) -> str | None:
    """The answer that more than half of the answers agree on, or None. Takes linear time (Boyer and Moore 1981).

    >>> majority(["5", "4", "4.0"]), majority(["5", "4"]), majority(["1/2", "0.5"])
    ('4', None, '1/2')
    """
    counts, leader, lead = Counter(answers), "", 0
    for answer, count in counts.items():
        if lead == 0:
            leader, lead = answer, count
        else:
            lead += count if same_answer(answer, leader) else -count
            leader, lead = (leader, lead) if lead >= 0 else (answer, -lead)
    agreeing = [answer for answer in counts if same_answer(answer, leader)]
    return agreeing[0] if sum(counts[answer] for answer in agreeing) * 2 > len(answers) else None


def group_equal(keys: "array[int] | np.ndarray") -> dict[int, int]:
    """The positions of keys (n,) that occur several times, each with the position of the key's first occurrence."""
    values = np.asarray(keys, np.uint64)
    order = np.argsort(values, kind="stable")
    same = values[order][1:] == values[order][:-1]
    groups: dict[int, int] = {}
    for at in np.flatnonzero(same).tolist():
        before, here = int(order[at]), int(order[at + 1])
        groups[here] = groups.setdefault(before, before)
    return groups


@dataclass(frozen=True, slots=True)
class First:
    """What is kept of the first row of a problem that occurs several times."""

    id: str
    problem: str
    question: str
    answer: str
    chains: set[int]


def merged(
    rows: Iterable[Row], earlier: Mapping[int, Sequence[int]], same: Callable[[Example, First], bool]
) -> Iterator[Row]:
    """Merge rows of the same problem: keep the first row, and those later rows that have another chain.

    Args: `earlier` maps a position to the positions of earlier rows that may be the same problem; `same` decides
    whether two rows are. Yields a row or a Dropped for each input row, in order; a row that is dropped already stays
    dropped.
    """
    held: dict[int, First] = {}
    wanted = {at for others in earlier.values() for at in others}
    for at, row in enumerate(rows):
        if not isinstance(row, Example) or (at not in wanted and not earlier.get(at)):
            yield row
            continue
        known = (held[other] for other in earlier.get(at, ()) if other in held)
        first = next((first for first in known if same(row, first)), None)
        chain = digest(squeezed(row.completion))
        if at in wanted:
            held[at] = first or First(row.id, row.problem, row.question, row.answer, {chain})
        if first is None:
            yield row
        elif chain in first.chains or not row.completion:
            data = {**row.to_json(), "matched": {"id": first.id, "problem": first.question}}
            yield Dropped(row.id, "", "same problem", f"as {first.id}", data=data)
        else:
            first.chains.add(chain)
            yield replace(row, problem=first.problem)


def same_answer(one: str, other: str) -> bool:
    """Whether two reference answers may be the same: they agree, cannot be compared, or one is missing."""
    return not (one and other) or one == other or equal(one, other)[0] != "wrong"


@stage("pool")
def near_dedup(rows: Iterable[Example], /) -> Iterator[Row]:
    """Drop problems that repeat an earlier one in other words or other LaTeX; rows with another chain stay as rivals.

    Goes through `rows` twice and holds less than 1 kB per row.
    """
    pairs = find_pairs(Sketches.of(row.question for row in rows))
    yield from merged(rows, pairs, _is_near)


def _is_near(row: Example, first: First) -> bool:
    return is_same(row.question, first.question) and same_answer(row.answer, first.answer)


def is_same(one: str, other: str) -> bool:
    """Whether two texts are the same problem, judged by words, formulas and drawings.

    >>> is_same("Find the value of $x+1$.", "What is \\\\(x + 1\\\\)?"), is_same("Find $x+1$.", "Find $x-1$.")
    (True, False)
    """
    short, long = sorted((_read(one), _read(other)), key=lambda text: len(text.parts))
    drawn_alike = not (short.drawing and long.drawing) or short.drawing == long.drawing
    return drawn_alike and align(short, long, holds=False).same


_read = lru_cache(maxsize=10_000)(Text)
