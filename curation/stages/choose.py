"""The choice: the best chain of each problem, then the best problems, under quotas and a budget; or some at random.

`curation/stages/spread.py` chooses for coverage instead, `curation/controls.py` makes the sets that a choice has to
beat.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.similar import digest
from curation.stage import stage
from curation.stages.score import read_score
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.recipe import suggest

if TYPE_CHECKING:
    import pandas as pd


@stage("problem", reads=("{by}",))
def best_chain(rows: Iterable[Example], /, *, by: str) -> Iterator[Row]:
    """Keep the chain with the highest `scores[by]` of each problem; ties go by id. Goes through `rows` twice."""
    winners: dict[int, tuple[float, str]] = {}
    for row in rows:
        key, mine = digest(row.problem), (-read_score(row, by, "best_chain.by"), row.id)
        winners[key] = min(winners.get(key, mine), mine)
    for row in rows:
        value, winner = winners[digest(row.problem)]
        if row.id == winner:
            yield row
        else:
            detail = f"{winner} has {by} {-value:.3f}, this one {row.scores[by]:.3f}"
            yield Dropped(row.id, "", "better chain of the same problem", detail, data=row.to_json())


def _check_limits(
    *, k: int | None, tokens: int | None = None, quotas: Mapping[str, Any] | None = None, **_: object
) -> None:
    if (k is None and tokens is None) or (k is not None and k < 1) or (tokens is not None and tokens < 1):
        raise UserError(f"choose_problems needs k or tokens of at least 1: k is {k}, tokens {tokens}")
    for quota in (quotas or {}).values():
        for limit in quota.values() if isinstance(quota, Mapping) else [quota]:
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
                raise UserError(f"choose_problems.quotas must give whole numbers, not {limit!r}")


@stage("pool", reads=("{by}",), check=_check_limits)
def choose_problems(
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
    the chosen ones and some numbers a row. Raises UserError for limits out of range, and for a score rows lack.
    """
    _check_limits(k=k, tokens=tokens, quotas=quotas)
    chosen = _Chosen(k, by, tokens, quotas or {})
    refused: dict[int, tuple[str, str]] = {}
    for entry in _table(rows, by, tokens is not None, list(quotas or {})).itertuples():
        if why := chosen.refuse(entry):
            refused[entry.Index] = why
        else:
            chosen.add(entry)
    kept: dict[int, Example] = {}
    for at, row in enumerate(rows):
        if at in refused:
            yield Dropped(row.id, "", *refused[at], data=row.to_json())
        else:
            kept[at] = row
    yield from (kept[at] for at in chosen.places)


def _table(rows: Iterable[Example], by: str, with_tokens: bool, kinds: list[str]) -> "pd.DataFrame":
    """The rows as numbers by position, best first: score, id, problem, tokens, and the kinds that quotas limit."""
    import pandas as pd

    def each() -> Iterator[tuple[Any, ...]]:
        for row in rows:
            length = read_score(row, "tokens", "choose_problems.tokens") if with_tokens else 0.0
            own = {"source": row.source, **row.notes}
            found.update(own.keys() & set(kinds))
            value = read_score(row, by, "choose_problems.by")
            yield value, row.id, digest(row.problem), length, tuple((kind, str(own.get(kind, ""))) for kind in kinds)

    found = set[str]()
    table = pd.DataFrame(each(), columns=["value", "id", "problem", "tokens", "kinds"])
    if len(table) and (missing := [kind for kind in kinds if kind not in found]):
        known = sorted({"source", *(name for row in rows for name in row.notes)})
        raise UserError(f"choose_problems.quotas: no row has a note '{missing[0]}'{suggest(missing[0], known)}")
    return table.sort_values(["value", "id"], ascending=[False, True])


@dataclass
class _Chosen:
    """What is chosen so far, and whether there is room for one more."""

    k: int | None
    by: str
    tokens: int | None
    quotas: Mapping[str, Any]
    places: list[int] = field(default_factory=list)  # positions, best first
    best: dict[int, Any] = field(default_factory=dict)  # by problem
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    length: float = 0.0
    last: float = 0.0  # score of the last one

    def add(self, entry: Any) -> None:
        self.places.append(entry.Index)
        self.best[entry.problem] = entry
        self.counts.update(entry.kinds)
        self.length += entry.tokens
        self.last = entry.value

    def refuse(self, entry: Any) -> tuple[str, str] | None:
        """Why there is no room, a reason and a detail; None if there is."""
        if rival := self.best.get(entry.problem):
            detail = f"{rival.id} has {rival.value:.3f}, this one {entry.value:.3f}"
            return "better chain of the same problem", detail
        for kind, value in entry.kinds:
            quota = self.quotas[kind]
            limit = {str(k): v for k, v in quota.items()}.get(value) if isinstance(quota, Mapping) else quota
            if limit is not None and self.counts[kind, value] >= limit:
                return f"quota of its {kind} is full", f"{value}: {limit}"
        if self.k is not None and len(self.best) >= self.k:
            detail = f"{self.by} {entry.value:.3f}, the last one chosen has {self.last:.3f}"
            return f"not among the best {self.k}", detail
        if self.tokens is not None and self.length + entry.tokens > self.tokens:
            return "over the token budget", f"{entry.tokens:,.0f} tokens, {self.tokens - self.length:,.0f} are left"
        return None


def _check_size(*, k: int, **_: object) -> None:
    if k < 1:
        raise UserError(f"subsample.k must be at least 1, not {k}")


@stage("pool", check=_check_size)
def subsample(rows: Iterable[Example], /, *, k: int, seed: int) -> Iterator[Row]:
    """Keep `k` problems at random, where there are more than can be paid for. A larger `k` keeps the same and more.

    All chains of a problem stay or are dropped together. Goes through `rows` twice.
    """
    _check_size(k=k)
    lots = array("Q", (digest(f"{seed}/{row.problem}") for row in rows))
    problems = np.unique(np.frombuffer(lots, dtype=np.uint64))
    last = int(problems[:k][-1]) if len(problems) else 0
    for lot, row in zip(lots, rows, strict=True):
        if lot <= last:
            yield row
        else:
            detail = f"{k:,} of {len(problems):,} problems are sampled"
            yield Dropped(row.id, "", "not in the subsample", detail, data=row.to_json())
