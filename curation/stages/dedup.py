"""Deduplication: the same problem in the same words, then in other words or other LaTeX. For millions of rows.

Rows of one problem get one `problem`, that of the first; a row that brings another chain stays as its rival.

Near duplicates are the same problem if they have the same numbers, their answers agree and they say the same: what is
left without the words of asking ("find", "what is the value of") is one and the same sequence of LaTeX tokens, or one
stands inside of the other. They are looked up by their numbers and their first tokens, which finds nine such pairs
among MATH's 7,470 training problems; MinHash over runs of tokens, tried before, finds eight of them. With other numbers
they are variants of a template: other problems, which are counted and capped, never taken for duplicates.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from curation.similar import digest, numbers, squeezed, tokens
from curation.stage import drop, stage
from eval.grade import equal
from limo.data import Dropped, Example, Row
from limo.errors import UserError


@stage("pool")
def exact_dedup(rows: Iterable[Example], /) -> Iterator[Row]:
    """Drop rows that repeat an earlier problem and chain, the case of words and white space aside.

    Another chain of an earlier problem stays as its rival. Where rows of one problem have different answers, at most
    one is right: that of most rows stays, and without a majority none. Goes through `rows` three times and holds a few
    numbers a row, so that a million rows fit.
    """
    groups = group_equal(array("Q", (digest(squeezed(row.question)) for row in rows)))
    answers: dict[int, list[str]] = {}
    for at, row in enumerate(rows):
        if at in groups and row.answer:
            answers.setdefault(groups[at], []).append(row.answer)
    right = {group: majority(listed) for group, listed in answers.items()}
    yield from merged(_undisputed(rows, groups, right), groups, same=lambda row, first: True)


def _undisputed(rows: Iterable[Example], groups: Mapping[int, int], right: Mapping[int, str | None]) -> Iterator[Row]:
    """The rows, and in the place of one whose answer most others contradict its drop."""
    for at, row in enumerate(rows):
        answer = right.get(groups[at], "") if at in groups else row.answer
        if answer is not None and same_answer(row.answer, answer):
            yield row
        else:
            others = (
                f"of most others it is {answer!r}" if answer is not None else "others have another, none a majority"
            )
            detail = f"its answer is {row.answer!r}, {others}"
            yield drop(row, "same problem, another answer", detail)


def majority(answers: Sequence[str]) -> str | None:
    """The answer that more than half of them agree on, or None.

    >>> majority(["5", "4", "4.0"]), majority(["5", "4"]), majority(["1/2", "0.5"])
    ('4', None, '1/2')
    """
    for answer in dict.fromkeys(answers):
        if sum(same_answer(other, answer) for other in answers) * 2 > len(answers):
            return answer
    return None


def group_equal(keys: "array[int]") -> dict[int, int]:
    """The positions of keys (n,) that recur, each with the position at which its key first came (its own, if that)."""
    values = np.frombuffer(keys, dtype=np.uint64)
    order = np.argsort(values, kind="stable")
    same = values[order][1:] == values[order][:-1]
    groups: dict[int, int] = {}
    for at in np.flatnonzero(same).tolist():
        before, here = int(order[at]), int(order[at + 1])
        groups[here] = groups.setdefault(before, before)
    return groups


def merged(
    rows: Iterable[Row], groups: Mapping[int, int], *, same: Callable[[Example, "First"], bool]
) -> Iterator[Row]:
    """Rows of which some are the same problem: the first of each stays, and of the others those with a new chain.

    Args: `groups` is the position of the first row for each position in a group; `same` decides whether a row of a
    group is the problem of an earlier one. Yields one row for each, in order; what is dropped already stays so.
    """
    firsts: dict[int, list[First]] = {}
    for at, row in enumerate(rows):
        if at not in groups or not isinstance(row, Example):
            yield row
            continue
        known = firsts.setdefault(groups[at], [])
        first = next((first for first in known if same(row, first)), None)
        chain = digest(squeezed(row.completion))
        if first is None:
            known.append(First(row.id, row.problem, row.question, row.answer, {chain}))
            yield row
        elif chain in first.chains or not row.completion:
            data = {**row.to_json(), "matched": {"id": first.id, "problem": first.question}}
            yield Dropped(row.id, "", "same problem", f"as {first.id}", data=data)
        else:
            first.chains.add(chain)
            yield replace(row, problem=first.problem)


@dataclass(frozen=True, slots=True)
class First:
    """What is held of the first row of a problem that comes again."""

    id: str
    problem: str
    question: str
    answer: str
    chains: set[int]


def same_answer(one: str, other: str) -> bool:
    """Whether two references agree, or cannot be compared: one that is missing contradicts none."""
    return not (one and other) or one == other or equal(one, other)[0] != "wrong"


def _check_near(*, variants: int | None) -> None:
    if variants is not None and variants < 1:
        raise UserError(f"near_dedup needs variants of at least 1, or null for all, not {variants}")


@stage("pool", check=_check_near)
def near_dedup(rows: Iterable[Example], /, *, variants: int | None) -> Iterator[Row]:
    """Drop problems that are an earlier one in other words or other LaTeX, and variants beyond the first few.

    `variants` is how many problems that differ in their numbers alone may stay, None for all. Another chain of an
    earlier problem stays as its rival. Goes through `rows` twice and holds a few numbers a row. Raises UserError for
    settings out of range.
    """
    _check_near(variants=variants)
    keys, templates = array("Q"), array("Q")
    for row in rows:
        parts = said(row.question)
        keys.append(digest(" ".join([*parts[:HEAD], "|", *sorted(numbers(parts).elements())])))
        templates.append(digest(" ".join("#" if part[0].isdigit() else part for part in parts)))
    same = group_equal(keys)
    over = _beyond(group_equal(templates), same, variants) if variants else {}
    heads, first = set(over.values()), dict[int, Row]()
    for at, found in enumerate(merged(rows, same, same=_same)):
        if at in heads:
            first[at] = found
        if isinstance(found, Example) and at in over:
            yield _variant(found, first[over[at]], variants)
        else:
            yield found


HEAD = 10  # tokens by which problems are looked up that may be the same
ASKING = frozenset(
    "an and answer are as at be by calculate common compute determine each evaluate express find following form "
    "fraction given how if in is it its let many number of on possible simplest solve suppose that the there these "
    "this those to value values was we what when where which with your".split()
)
_WORDS = re.compile(r"(?<!\\)\b\w+")  # names and numbers of a drawing, not its spacing and brackets
_DRAWING = re.compile(r"\[asy\](.*?)\[/asy\]", re.DOTALL)


def _same(row: Example, first: First) -> bool:
    return same_answer(row.answer, first.answer) and say_the_same(row.question, first.question)


def said(text: str) -> list[str]:
    """The tokens of a problem without the words of asking."""
    return [token for token in tokens(text) if token not in ASKING]


def say_the_same(one: str, other: str) -> bool:
    """Whether two problems are one, the words of asking aside; of one that stands inside of the other too.

    >>> say_the_same("Find the value of $x+1$.", "What is \\\\(x + 1\\\\)?"), say_the_same("Find $x+1$.", "Find $x-1$.")
    (True, False)
    """
    drawings = [[_WORDS.findall(drawing) for drawing in _DRAWING.findall(text)] for text in (one, other)]
    if all(drawings) and drawings[0] != drawings[1]:
        return False
    short, long = sorted((said(text) for text in (one, other)), key=len)
    return f" {' '.join(short)} " in f" {' '.join(long)} "


def _variant(row: Example, head: Row, variants: int | None) -> Dropped:
    """The drop of a variant, beside the first row of its template."""
    question = head.question if isinstance(head, Example) else head.data["prompt"][-1]["content"]
    matched = {"id": head.id, "problem": question}
    detail = f"{variants} problems like {head.id} stay"
    return Dropped(row.id, "", "variant with other numbers", detail, data={**row.to_json(), "matched": matched})


def _beyond(templates: dict[int, int], same: dict[int, int], variants: int) -> dict[int, int]:
    """The positions of variants beyond the first few of their template, each with the template's first position."""
    kept: dict[int, set[int]] = {}
    over = {}
    for at in sorted(templates):
        problems = kept.setdefault(templates[at], set())
        problem = same.get(at, at)
        if problem in problems or len(problems) < variants:
            problems.add(problem)
        else:
            over[at] = templates[at]
    return over
