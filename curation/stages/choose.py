"""The choice: the best chain of each problem, then the best problems, under quotas and a budget; or some at random.

`curation/stages/spread.py` chooses for coverage instead, `curation/controls.py` makes the sets that a choice has to
beat.
"""

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from curation.similar import digest
from curation.stage import drop, stage
from curation.stages.score import read_score
from limo.data import Example, Row
from limo.errors import UserError
from limo.recipe import suggest


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
            yield drop(row, "better chain of the same problem", detail)


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
    limits = {kind: _limit(quota) for kind, quota in (quotas or {}).items()}
    chosen: list[int] = []
    refused: dict[int, tuple[str, str]] = {}
    best: dict[int, tuple[float, str]] = {}  # score and id, by problem
    counts, left, last = Counter[tuple[str, str]](), tokens or 0.0, 0.0
    for value, key, at, problem, kinds, length in _ranked(rows, by, tokens is not None, list(limits)):
        full = next((pair for pair in kinds if counts[pair] >= limits[pair[0]](pair[1])), None)
        if problem in best:
            detail = f"{best[problem][1]} has {best[problem][0]:.3f}, this one {-value:.3f}"
            refused[at] = "better chain of the same problem", detail
        elif full:
            refused[at] = f"quota of its {full[0]} is full", f"{full[1]}: {limits[full[0]](full[1])}"
        elif k is not None and len(best) >= k:
            refused[at] = f"not among the best {k}", f"{by} {-value:.3f}, the last one chosen has {last:.3f}"
        elif tokens is not None and length > left:
            refused[at] = "over the token budget", f"{length:,.0f} tokens, {left:,.0f} are left"
        else:
            chosen.append(at)
            last = -value
            best[problem] = (last, key)
            counts.update(kinds)
            left -= length
    kept: dict[int, Example] = {}
    for at, row in enumerate(rows):
        if at in refused:
            yield drop(row, *refused[at])
        else:
            kept[at] = row
    yield from (kept[at] for at in chosen)


Entry = tuple[float, str, int, int, tuple[tuple[str, str], ...], float]


def _ranked(rows: Iterable[Example], by: str, with_tokens: bool, kinds: list[str]) -> list[Entry]:
    """Negative score, id, position, problem, value of each kind, and tokens of all rows, the best first."""
    entries: list[Entry] = []
    found = set[str]()
    for at, row in enumerate(rows):
        own = {"source": row.source, **row.notes}
        found.update(own.keys() & kinds)
        values = tuple((kind, str(own.get(kind, ""))) for kind in kinds)
        length = read_score(row, "tokens", "choose_problems.tokens") if with_tokens else 0.0
        entries.append((-read_score(row, by, "choose_problems.by"), row.id, at, digest(row.problem), values, length))
    if entries and (missing := [kind for kind in kinds if kind not in found]):
        known = sorted({"source", *(name for row in rows for name in row.notes)})
        raise UserError(f"choose_problems.quotas: no row has a note '{missing[0]}'{suggest(missing[0], known)}")
    return sorted(entries)


def _limit(quota: Mapping[str, int] | int) -> Callable[[str], float]:
    """How many rows a quota allows for a value."""
    if isinstance(quota, int):
        return lambda value: quota
    limits = {str(value): limit for value, limit in quota.items()}
    return lambda value: limits.get(value, math.inf)


def _check_size(*, k: int, **_: object) -> None:
    if k < 1:
        raise UserError(f"subsample.k must be at least 1, not {k}")


@stage("pool", check=_check_size)
def subsample(rows: Iterable[Example], /, *, k: int, seed: int) -> Iterator[Row]:
    """Keep `k` problems at random, where there are more than can be paid for. A larger `k` keeps the same and more.

    All chains of a problem stay or are dropped together. Goes through `rows` twice.
    """
    _check_size(k=k)
    keys = array("Q", (digest(f"{seed}/{row.problem}") for row in rows))
    problems = set(keys)
    kept = problems if len(problems) <= k else set(heapq.nsmallest(k, problems))
    for key, row in zip(keys, rows, strict=True):
        if key in kept:
            yield row
        else:
            detail = f"{k:,} of {len(problems):,} problems are sampled"
            yield drop(row, "not in the subsample", detail)
