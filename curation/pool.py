"""The pool: several sources as one stream of rows, without doubles and without what is evaluated on."""

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from curation.similar import Known, KnownByWords, Match, known
from eval.benchmarks import load
from eval.grade import equal
from limo.data import Dropped, Example, Message, Row
from limo.errors import UserError
from limo.parallel import chunked, spread
from limo.recipe import bind

CHUNK = 2000  # problems sent to a process at once


def gather(sources: Mapping[str, Any], system: str) -> Iterator[Row]:
    """The rows of all sources, in the recipe's order. A row whose id came before is set aside."""
    seen: set[int] = set()
    for name, node in sources.items():
        for row in bind(node, f"curate.pool.{name}")(name, system):
            if isinstance(row, Example):
                key = digest(row.id)
                if key in seen:
                    where = row.notes.get("file", ""), row.notes.get("row", 0)
                    detail = f"an earlier row is called '{row.id}' too"
                    yield Dropped(row.id, name, "duplicate id", detail, *where, row.to_json())
                    continue
                seen.add(key)
            yield row


def distinct(rows: Iterable[Example], /) -> Iterator[Row]:
    """Drop rows that repeat an earlier problem and chain, the case of words and white space aside.

    Another chain of an earlier problem stays as its rival, under the earlier row's prompt. Where rows of one problem
    have different answers, at most one is right: that of most rows stays, and without a majority none. Goes through
    `rows` three times and holds a few numbers a row, so that a million rows fit.
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
            yield Dropped(row.id, "", "same problem, another answer", detail, data=row.to_json())


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

    Args: `groups` is the position of the first row for each position in a group; `same` has the last word on whether a
    row of a group is the problem of an earlier one. Kept rows of one problem have the prompt of its first, by which
    rivals are known. Yields one row for each, in order; what is dropped already stays so.
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
            known.append(First(row.id, row.prompt, row.answer, {chain}))
            yield row
        elif chain in first.chains or not row.completion:
            data = {**row.to_json(), "matched": {"id": first.id, "problem": first.question}}
            yield Dropped(row.id, "", "same problem", f"as {first.id}", data=data)
        else:
            first.chains.add(chain)
            yield replace(row, prompt=first.prompt)


@dataclass(frozen=True, slots=True)
class First:
    """What is held of the first row of a problem that comes again."""

    id: str
    prompt: tuple[Message, ...]
    answer: str
    chains: set[int]

    @property
    def question(self) -> str:
        """The text of the problem."""
        return self.prompt[-1]["content"]


def same_answer(one: str, other: str) -> bool:
    """Whether two references agree, or cannot be told apart: one that is missing contradicts none."""
    return not (one and other) or one == other or equal(one, other)[0] != "wrong"


def digest(text: str) -> int:
    """64 bits of a text: two of a million texts share them once in 40 million pools."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def exact_keys(questions: list[str]) -> np.ndarray:
    """What rows of one problem, case and white space aside, have in common: (1, n)."""
    return np.array([[digest(squeezed(question)) for question in questions]], dtype=np.uint64)


def draw(rows: Iterable[Example], /, *, k: int, seed: int) -> Iterator[Row]:
    """Keep `k` problems at random, where there are more than can be paid for. A larger `k` keeps the same and more.

    All chains of a problem stay or leave together. Goes through `rows` twice. Raises UserError for a `k` below 1.
    """
    if k < 1:
        raise UserError(f"draw.k must be at least 1, not {k}")
    lots = array("Q", (digest(f"{seed}/{row.problem}") for row in rows))
    distinct_lots = np.unique(np.frombuffer(lots, dtype=np.uint64))
    last = int(distinct_lots[:k][-1]) if len(distinct_lots) else 0
    for lot, row in zip(lots, rows, strict=True):
        if lot <= last:
            yield row
        else:
            detail = f"{k:,} of {len(distinct_lots):,} problems are drawn"
            yield Dropped(row.id, "", "not drawn", detail, data=row.to_json())


def decontaminate(
    rows: Iterable[Example], /, *, benchmarks: list[Any] | dict[str, Any], rule: str, variants: str
) -> Iterator[Row]:
    """Drop problems that hold a benchmark problem, each beside what it matched.

    Args: `rule` is "latex" (`curation/similar.py`; `python -m curation.leaks` shows what it finds) or one of the word
    rules, "words-8", "words-10", "words-13". `variants` says whether a benchmark problem with other numbers is to
    "drop" too or to "keep". Raises UserError for another rule, or a benchmark that cannot be had.
    """
    if variants not in ("drop", "keep"):
        raise UserError(f"decontaminate.variants must be drop or keep, not '{variants}'")
    held_out = [row for held in load(benchmarks, "").values() for row in held]
    problems = [str(row.notes.get("problem", row.question)) for row in held_out]
    known(problems[:1], rule)  # a rule that there is not is told before the work
    questions = chunked((row.question for row in rows), CHUNK)
    found = spread(_matches, questions, start=_look_up, given=(problems, rule))
    for row, matches in zip(rows, (m for chunk in found for m in chunk), strict=True):
        hits = [hit for hit in matches if hit.kind == "same" or variants == "drop"]
        if not hits:
            yield row
            continue
        hit, matched = hits[0], held_out[hits[0].at]
        reason = "in a benchmark" if hit.kind == "same" else "a benchmark problem with other numbers"
        match = {"id": matched.id, "problem": problems[hit.at], "contained": round(hit.contained, 3)}
        detail = f"holds {100 * hit.contained:.0f} % of {matched.id}"
        yield Dropped(row.id, "", reason, detail, data={**row.to_json(), "matched": match})


_known: Known | KnownByWords  # of this process, made once


def _look_up(problems: list[str], rule: str) -> None:
    global _known
    _known = _index(tuple(problems), rule)


@lru_cache(maxsize=1)
def _index(problems: tuple[str, ...], rule: str) -> Known | KnownByWords:
    """Made once in a process, however many parts of a pool it is given."""
    return known(problems, rule)


def _matches(questions: list[str]) -> list[list[Match]]:
    return [_known.matches(question) for question in questions]


_CAPITALS = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")


def squeezed(text: str) -> str:
    """Text for exact comparison: one space for any, words in lower case, but not single letters, which are symbols.

    >>> squeezed("Find  THE value of $N - n$ and \\\\Delta")
    'find the value of $N - n$ and \\\\Delta'
    """
    return _CAPITALS.sub(lambda word: word.group().lower(), re.sub(r"\s+", " ", text).strip())
