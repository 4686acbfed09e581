"""The pool: several sources as one stream of rows, without doubles and without what is evaluated on."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from curation.similar import known
from eval.benchmarks import load
from limo.data import Dropped, Example, Row
from limo.errors import UserError
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
    lookup = known((str(row.notes.get("problem", row.question)) for row in held_out), rule)
    for row in rows:
        hits = [hit for hit in lookup.matches(row.question) if hit.kind == "same" or variants == "drop"]
        if not hits:
            yield row
            continue
        hit, matched = hits[0], held_out[hits[0].at]
        reason = "in a benchmark" if hit.kind == "same" else "a benchmark problem with other numbers"
        beside = {"id": matched.id, "problem": lookup.texts[hit.at], "contained": round(hit.contained, 3)}
        yield Dropped(
            row.id,
            "",
            reason,
            f"holds {100 * hit.contained:.0f} % of {matched.id}",
            data={**row.to_json(), "matched": beside},
        )


def squeezed(text: str) -> str:
    """Text for exact comparison."""
    return re.sub(r"\s+", " ", text).strip().lower()
