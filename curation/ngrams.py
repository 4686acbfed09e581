"""Decontamination as MAmmoTH2 publishes it: a run of ten words shared with a question or an answer of a benchmark.

The toolkit's own method is `curation.pool.decontaminate`, which reads LaTeX and finds copies in other spelling; a
recipe has both. Words are runs of letters and digits in lower case, so white space, case and punctuation are no
disguise; other LaTeX is. A text of fewer words than a run has none, and is compared as a whole: the published rule
never finds it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from curation.pool import digest
from eval.benchmarks import load
from limo.data import Dropped, Example, Row
from limo.errors import UserError

WORDS = re.compile(r"[^\W_]+")
LEAST = 4  # words of a short text that is compared as a whole; fewer say nothing


def overlap(rows: Iterable[Example], /, *, benchmarks: list[Any] | dict[str, Any], run: int) -> Iterator[Row]:
    """Drop rows whose question or answer shares a run of `run` words with a benchmark's question or its answer.

    Each is kept beside what it matched. Raises UserError for a benchmark that cannot be had.
    """
    if run < 2:
        raise UserError(f"overlap.run must be at least 2, not {run}")
    known: dict[int, str] = {}
    shortest: set[int] = set()
    for held in load(benchmarks, "").values():
        for row in held:
            texts = {
                "question": str(row.notes.get("problem", row.question)),
                "answer": row.answer,
                "solution": row.completion,
            }
            for part, text in texts.items():
                for key, whole in _runs(text, run):
                    known.setdefault(key, f"{part} of {row.id}")
                    if whole:
                        shortest.add(whole)
    for row in rows:
        hit = next((known[key] for key in _all_runs(row, run, shortest) if key in known), None)
        if hit is None:
            yield row
        else:
            yield Dropped(row.id, "", "shares words with a benchmark", f"{run} words of the {hit}", data=row.to_json())


def _runs(text: str, words: int) -> Iterator[tuple[int, int]]:
    """Keys of the runs of a benchmark's text, and the length of one that is a whole, shorter text (0 otherwise)."""
    found = WORDS.findall(text.lower())
    if len(found) < words:
        if len(found) >= LEAST:
            yield digest(" ".join(found)), len(found)
        return
    for at in range(len(found) - words + 1):
        yield _key(tuple(found[at : at + words])), 0


def _all_runs(row: Example, words: int, shortest: set[int]) -> Iterator[int]:
    for text in (row.question, row.completion):
        found = WORDS.findall(text.lower())
        for at in range(len(found) - words + 1):
            yield _key(tuple(found[at : at + words]))
        if len(found) in shortest:  # a short text is a leak if it is all that there is
            yield digest(" ".join(found))


def _key(run: tuple[str, ...]) -> int:
    return digest(" ".join(run))
