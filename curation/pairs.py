"""Pairs for preference training: a chosen chain, and a worse one of the same problem that was dropped on the way."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from curation.pool import digest
from limo.data import Example, parsed

REASONS = {"wrong": "wrong answer", "worst": "better chain of the same problem"}


def paired(chosen: Iterable[Example], left: Sequence[Path], which: str) -> Iterator[Example]:
    """Each chosen row for which there is one, with a `rejected` chain.

    Args: `left` are the stages' files of dropped rows. `which` is "wrong", a chain that ends in a wrong answer, or
    "worst", the right one with the lowest score. Among wrong ones the nearest in length is taken, so that preferring
    the better chain is not preferring the longer one.
    """
    rows = list(chosen)
    by_problem = {digest(row.problem): row for row in rows}
    worse: dict[str, tuple[float, str]] = {}
    for rival in _dropped(left, REASONS[which]):
        row = by_problem.get(digest(rival.problem))
        if row is None or rival.completion == row.completion:
            continue
        distance = (
            abs(len(rival.completion) - len(row.completion)) if which == "wrong" else rival.scores.get("score", 0)
        )
        known = worse.get(row.id)
        worse[row.id] = min(known, (distance, rival.completion)) if known else (distance, rival.completion)
    return (replace(row, rejected=worse[row.id][1]) for row in rows if row.id in worse)


def _dropped(left: Sequence[Path], reason: str) -> Iterator[Example]:
    mark = reason.encode()
    for path in left:
        with path.open("rb") as lines:
            for line in lines:
                if mark in line and (row := parsed(line))["reason"] == reason:
                    yield Example.from_json(row["data"])
