"""The pool: several sources as one stream of rows, without doubles and without what is evaluated on."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from eval.benchmarks import load
from limo.data import Dropped, Example, Row
from limo.recipe import bind


def gather(sources: Mapping[str, Any], system: str) -> Iterator[Row]:
    """The rows of all sources, in the recipe's order. A row whose id came before is set aside."""
    seen: set[str] = set()
    for name, node in sources.items():
        for row in bind(node, f"curate.pool.{name}")(name, system):
            if isinstance(row, Example) and row.id in seen:
                where = row.notes.get("file", ""), row.notes.get("row", 0)
                yield Dropped(
                    row.id, name, "duplicate id", f"an earlier row is called '{row.id}' too", *where, row.to_json()
                )
                continue
            seen.add(row.id)
            yield row


def distinct(rows: Iterable[Example], /) -> Iterator[Row]:
    """Drop rows that repeat an earlier problem and chain, upper and lower case and white space aside.

    Another chain of an earlier problem stays as its rival, under the earlier row's prompt.
    """
    first: dict[str, Example] = {}
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        problem = squeezed(row.question)
        key = problem, squeezed(row.completion)
        if key in seen or (problem in first and not row.completion):
            yield Dropped(row.id, "", "same problem", f"as {seen.get(key) or first[problem].id}", data=row.to_json())
            continue
        seen[key] = row.id
        yield replace(row, prompt=first.setdefault(problem, row).prompt)


def decontaminate(rows: Iterable[Example], /, *, benchmarks: list[Any] | dict[str, Any]) -> Iterator[Row]:
    """Drop problems whose text is that of a benchmark problem, upper and lower case and white space aside."""
    held_out = {
        squeezed(row.notes.get("problem", row.question)): row.id
        for held in load(benchmarks, "").values()
        for row in held
    }
    for row in rows:
        hit = held_out.get(squeezed(row.question))
        yield Dropped(row.id, "", "in a benchmark", f"the same text as {hit}", data=row.to_json()) if hit else row


def squeezed(text: str) -> str:
    """Text for exact comparison."""
    return re.sub(r"\s+", " ", text).strip().lower()
