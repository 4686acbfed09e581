"""Finds texts that hold a benchmark problem, without a recipe: for rows without answers and chains.

    leaks = find_leaks(["Find the remainder of ..."], ["math500"])  ->  ["math500-17"] or [None]

The stage `decontaminate` does the same for the rows of a curation, with a reason for each.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curation.matching.known import Known
from eval.benchmarks import load_benchmarks


def find_leaks(
    texts: Iterable[str], benchmarks: Sequence[Any] | Mapping[str, Any], *, variants: bool = True
) -> list[str | None]:
    """The id of the benchmark problem that each text holds, None where it holds none.

    Args: `benchmarks` as in a recipe, names or files; `variants` counts a problem with other numbers, and a large part
    of one, as well. Raises UserError for a benchmark that is missing.
    """
    problems = [row for rows in load_benchmarks(benchmarks, "").values() for row in rows]
    known = Known(str(row.notes.get("problem", row.question)) for row in problems)
    hits = ([hit for hit in known.matches(text) if variants or hit.kind == "same"] for text in texts)
    return [problems[found[0].at].id if found else None for found in hits]
