"""The choice: the best chain of each problem, then the best problems, under quotas and a budget.

`curation/spread.py` chooses for coverage instead, `curation/controls.py` makes the sets that a choice has to beat.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curation.pool import digest
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.recipe import near


def best(rows: Iterable[Example], /, *, by: str) -> Iterator[Row]:
    """Keep the chain with the highest `scores[by]` of each problem; ties go by id. Goes through `rows` twice."""
    winners: dict[int, tuple[float, str]] = {}
    for row in rows:
        key, mine = digest(row.problem), (-scored(row, by), row.id)
        winners[key] = min(winners.get(key, mine), mine)
    for row in rows:
        value, winner = winners[digest(row.problem)]
        if row.id == winner:
            yield row
        else:
            detail = f"{winner} has {by} {-value:.3f}, this one {row.scores[by]:.3f}"
            yield _drop(row, "better chain of the same problem", detail)


def top(
    rows: Iterable[Example],
    /,
    *,
    k: int | None,
    by: str,
    tokens: int | None = None,
    quotas: Mapping[str, Any] | None = None,
) -> Iterator[Row]:
    """Keep the rows with the highest `scores[by]`, one chain of a problem (LIMO section 3: the best 800).

    Args: at most `k` rows, and chains of at most `tokens` tokens together (`scores.tokens`; a chain that does not fit
    leaves its place to the next); either may be None. `quotas` limits how many may come from one source or have one
    value of a note: {source: {gsm8k: 100}, type: 50} takes at most 100 of gsm8k and 50 of each type. Ties go by id, so
    the choice does not depend on the order of rows. Chosen rows come best first. Goes through `rows` twice and holds
    the chosen ones and some numbers a row. Raises UserError for limits that cannot be, and for a score rows lack.
    """
    if (k is None and tokens is None) or (k is not None and k < 1) or (tokens is not None and tokens < 1):
        raise UserError(f"choose needs k or tokens of at least 1: k is {k}, tokens {tokens}")
    ranking = _Ranking(rows, by, list(quotas or {}))
    taken = _Taken(k, tokens, quotas or {})
    places: dict[int, int] = {}
    why: dict[int, tuple[str, str]] = {}
    for at in ranking.order():
        entry = ranking.entry(at, with_tokens=tokens is not None)
        if refused := taken.refuses(entry):
            why[at] = refused
        else:
            places[at] = len(places)
            taken.add(entry)
    chosen: dict[int, Example] = {}
    dropped: list[Dropped] = []
    for at, row in enumerate(rows):
        if at in places:
            chosen[places[at]] = row
        else:
            dropped.append(_drop(row, *_worded(why[at], row, by, taken)))
            if len(dropped) >= 1000:
                yield from dropped
                dropped.clear()
    yield from (chosen[place] for place in sorted(chosen))
    yield from dropped


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a choice looks at, of one row."""

    id: str
    value: float
    problem: int
    tokens: float
    kinds: tuple[tuple[str, str], ...]  # its source, its subject: for quotas


class _Ranking:
    """The rows as numbers: their scores, their problems, what quotas ask for."""

    def __init__(self, rows: Iterable[Example], by: str, quotas: list[str]) -> None:
        self.values, self.lengths, self.problems = array("d"), array("d"), array("Q")
        self.ids: list[str] = []
        self.kinds: list[tuple[tuple[str, str], ...]] = []
        known: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
        notes = set[str]()
        for row in rows:
            self.values.append(scored(row, by))
            self.lengths.append(row.scores.get("tokens", -1.0))
            self.problems.append(digest(row.problem))
            self.ids.append(row.id)
            kinds = tuple((kind, _kind(row, kind)) for kind in quotas)
            self.kinds.append(known.setdefault(kinds, kinds))
            notes |= row.notes.keys() & set(quotas)
        if missing := [kind for kind in quotas if kind not in notes and kind != "source" and self.ids]:
            raise UserError(
                f"choose.quotas: no row has a note '{missing[0]}'{near(missing[0], ['source', *row.notes])}"
            )

    def order(self) -> list[int]:
        """Positions, the best first."""
        return sorted(range(len(self.ids)), key=lambda at: (-self.values[at], self.ids[at]))

    def entry(self, at: int, with_tokens: bool) -> _Entry:
        if with_tokens and self.lengths[at] < 0:
            raise UserError(
                f"choose.tokens: the row {self.ids[at]} has no score 'tokens'; add curation.score.tokens before"
            )
        return _Entry(self.ids[at], self.values[at], self.problems[at], self.lengths[at], self.kinds[at])


class _Taken:
    """What is chosen so far, and whether there is room for one more."""

    def __init__(self, k: int | None, tokens: int | None, quotas: Mapping[str, Any]) -> None:
        self.k, self.tokens, self.quotas = k, tokens, quotas
        self.best: dict[int, _Entry] = {}
        self.counts = Counter[tuple[str, str]]()
        self.length = 0.0
        self.last: _Entry | None = None

    def add(self, entry: _Entry) -> None:
        self.best[entry.problem] = self.last = entry
        self.counts.update(entry.kinds)
        self.length += entry.tokens

    def refuses(self, entry: _Entry) -> tuple[str, str] | None:
        """Why there is no room: a reason, and a detail or the id of a rival. None if there is."""
        if rival := self.best.get(entry.problem):
            return "better chain of the same problem", f"{rival.id} has {rival.value:.3f}"
        for kind in entry.kinds:
            limit = _limit(self.quotas[kind[0]], kind[1])
            if limit is not None and self.counts[kind] >= limit:
                return f"quota of its {kind[0]} is full", f"{kind[1]}: {limit}"
        if self.k is not None and len(self.best) >= self.k:
            return f"not among the best {self.k}", ""
        if self.tokens is not None and self.length + entry.tokens > self.tokens:
            return "over the token budget", f"{entry.tokens:,.0f} tokens, {self.tokens - self.length:,.0f} are left"
        return None


def _limit(quota: Any, value: str) -> int | None:
    limit = {str(k): v for k, v in quota.items()}.get(value) if isinstance(quota, Mapping) else quota
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise UserError(f"choose.quotas must give whole numbers, not {limit!r} for '{value}'")
    return limit


def _kind(row: Example, kind: str) -> str:
    return row.source if kind == "source" else str(row.notes.get(kind, ""))


def _worded(why: tuple[str, str], row: Example, by: str, taken: _Taken) -> tuple[str, str]:
    reason, detail = why
    mine = f"{by} {row.scores[by]:.3f}"
    if reason.startswith("better chain"):
        return reason, f"{detail}, this one {row.scores[by]:.3f}"
    if not detail and taken.last is not None:
        return reason, f"{mine}, the last one chosen has {taken.last.value:.3f}"
    return reason, detail


def scored(row: Example, by: str) -> float:
    """The row's score of that name. Raises UserError if it has none."""
    if by not in row.scores:
        raise UserError(f"choose.by: the row {row.id} has no score '{by}'{near(by, row.scores)}")
    return row.scores[by]


def _drop(row: Example, reason: str, detail: str) -> Dropped:
    return Dropped(row.id, "", reason, detail, data=row.to_json())
