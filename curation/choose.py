"""The choice: the best chain of each problem, then the best problems."""

from collections.abc import Iterable, Iterator
from typing import Any

from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.recipe import near


def top(rows: Iterable[Example], /, *, k: int, by: str, per_source: dict[str, int] | None = None) -> Iterator[Row]:
    """Keep the `k` rows with the highest `scores[by]`, at most one chain of a problem (LIMO section 3: 800).

    `per_source` limits how many may come from a source; sources it does not name have no limit. Ties go by id, so the
    choice does not depend on the order of rows. Chosen rows come best first.
    """
    if k < 1:
        raise UserError(f"choose.k must be at least 1, not {k}")
    rows = list(rows)
    without = next((row for row in rows if by not in row.scores), None)
    if without:
        raise UserError(f"choose.by: the row {without.id} has no score '{by}'{near(by, without.scores)}")
    ranked = sorted(rows, key=lambda row: (-row.scores[by], row.id))
    best: dict[str, Example] = {}
    taken: dict[str, int] = {}
    dropped: list[Dropped] = []
    chosen: list[Example] = []
    for row in ranked:
        rival = best.get(row.problem)
        limit = (per_source or {}).get(row.source)
        if rival:
            detail = f"{rival.id} has {by} {rival.scores[by]:.3f}, this one {row.scores[by]:.3f}"
            dropped.append(_drop(row, "better chain of the same problem", detail))
        elif limit is not None and taken.get(row.source, 0) >= limit:
            dropped.append(_drop(row, "quota of its source is full", f"{row.source}: {limit}"))
        elif len(chosen) >= k:
            detail = f"{by} {row.scores[by]:.3f}, the last one chosen has {chosen[-1].scores[by]:.3f}"
            dropped.append(_drop(row, f"not among the best {k}", detail))
        else:
            best[row.problem] = row
            taken[row.source] = taken.get(row.source, 0) + 1
            chosen.append(row)
    yield from chosen
    yield from dropped


def _drop(row: Example, reason: str, detail: str) -> Dropped:
    data: Any = row.to_json()
    return Dropped(row.id, "", reason, detail, data=data)
