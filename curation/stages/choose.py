"""The two stages that choose: `chains` among the chains of a problem, `problems` among the problems.

    chains:   {_target_: curation.stages.choose.chains, by: nll_inner, at_most: 1, seed: 0}
    problems: {_target_: curation.stages.choose.problems, k: 800, by: random, shares: {source: equal}, seed: 0}

The evidence differs (docs/choosing.md): a score can tell good chains of a problem from bad ones, while few ways to
choose problems beat a random choice. Whether low or high values are better is stated by the score; `prefer` states it
for a score that does not. Ties are broken by `seed`, so the order of rows does not matter.
`curation/evidence/controls.py` makes the sets that a choice has to beat.
"""

import heapq
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import PositiveInt

from curation.matching.embed import cluster, embed
from curation.matching.similar import digest
from curation.stage import NO_SCORES, Share, direction, drop, record, stage
from curation.stages.score import read_score
from limo.data import Example, Row
from limo.errors import UserError
from limo.recipe import bind, suggest

if TYPE_CHECKING:
    import pandas as pd

Prefer = Literal["lowest", "highest", "middle"]
RANDOM, TARGET = NO_SCORES
NOT_DRAWN = "not drawn"  # the reason of rows that a random choice drops
SHORT_OF = "fewer rows than asked for"  # the metric for shares that the pool cannot fill
DIMENSIONS = 128  # of an embedding

# Distance of a value from the preferred one: lower is better
KEYS: Mapping[str, Callable[[float], float]] = {
    "lowest": lambda value: value,
    "highest": lambda value: -value,
    "middle": lambda value: abs(value - 0.5),
}


def _order(seed: int, text: str) -> int:
    """A pseudo-random number computed from a text, the same in every run."""
    return digest(f"{seed}/{text}")


def preferred(by: str, prefer: Prefer | None, where: str) -> Prefer:
    """Which values of a score are better. Raises UserError if neither the score nor `prefer` states it, or if they
    contradict each other.
    """
    if by in NO_SCORES:
        return "highest"
    if not (stated := direction(by)):
        if prefer is None:
            raise UserError(f"{where}.prefer is missing: no stage states whether a low or a high '{by}' is better")
        return prefer
    theirs: Prefer = "lowest" if stated == "lower" else "highest"
    if prefer not in (None, theirs):
        raise UserError(
            f"{where}.prefer={prefer} contradicts the score: of '{by}', a {stated} value is better. Remove prefer; to "
            "choose against a score on purpose, weigh it in curation.stages.score.score"
        )
    return theirs


def _check_chains(*, by: str, prefer: Prefer | None = None, **_: object) -> None:
    preferred(by, prefer, "chains")


@stage("pool", reads=("{by}",), check=_check_chains)
def chains(
    rows: Iterable[Example], /, *, by: str, at_most: PositiveInt, seed: int, prefer: Prefer | None = None
) -> Iterator[Row]:
    """Keep the best `at_most` chains of each problem by `scores[by]`; `by: random` takes random ones.

    `prefer`, only for a score that does not state its direction, says whether the lowest value is best, the highest, or
    the one nearest to 0.5. Goes through `rows` twice. Raises UserError for a missing or wrong direction.
    """
    key = KEYS[preferred(by, prefer, "chains")]
    best: defaultdict[int, list[tuple[float, int, str]]] = defaultdict(list)  # the worst of the kept ones first
    for row in rows:
        value = 0.0 if by == RANDOM else key(read_score(row, by, "chains.by"))
        entry = (-value, _order(seed, f"chain/{row.id}"), row.id)
        kept = best[digest(row.problem)]
        (heapq.heappush if len(kept) < at_most else heapq.heappushpop)(kept, entry)
    for row in rows:
        kept = best[digest(row.problem)]
        if any(key == row.id for *_, key in kept):
            yield row
        else:
            rival = max(kept)[-1]
            if by == RANDOM:
                yield drop(row, NOT_DRAWN, f"of the chains of its problem, {rival} was")
            else:
                yield drop(row, "better chain of the same problem", f"{rival}, this one has {by} {row.scores[by]:.3f}")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Shares of short and of long chains among the chosen ones."""

    short: Share  # of chains of at most `tokens` tokens; the others are longer
    tokens: int


Shares = Mapping[str, Literal["equal", "target"] | Mapping[str, float]]


def _check_problems(
    *,
    k: int | None,
    by: str,
    prefer: Prefer | None = None,
    tokens: int | None = None,
    shares: Shares | None = None,
    target: Mapping[str, Any] | None = None,
    **_: object,
) -> None:
    if k is None and tokens is None:
        raise UserError("problems needs k or tokens")
    preferred(by, prefer, "problems")
    for name, wanted in (shares or {}).items():
        if isinstance(wanted, Mapping) and (abs(sum(wanted.values()) - 1) > 1e-6 or min(wanted.values()) < 0):
            raise UserError(f"problems.shares.{name} must be shares that sum to 1: {dict(wanted)}")
    if (by == TARGET or "target" in (shares or {}).values()) and not target:
        raise UserError("problems.target is missing: give a pool source with a few target problems")


def _read_by_problems(settings: Mapping[str, Any]) -> list[str]:
    return [settings["by"], *(["tokens"] if settings.get("tokens") or settings.get("lengths") else [])]


@stage("pool", reads=_read_by_problems, check=_check_problems)
def problems(
    rows: Iterable[Example],
    /,
    *,
    k: PositiveInt | None,
    by: str,
    seed: int,
    prefer: Prefer | None = None,
    tokens: PositiveInt | None = None,
    shares: Shares | None = None,
    lengths: Lengths | None = None,
    clusters: PositiveInt = 20,
    target: dict[str, Any] | None = None,
) -> Iterator[Row]:
    """Keep `k` problems with all of their chains, or as many as `tokens` tokens allow; the best come first.

    Args:
        by: a score (a problem has the score of its best chain); `random`; or `target`, which takes the nearest problem
            to each problem of `target` in turn.
        prefer: see `chains`; `middle` of a pass rate is middle difficulty.
        shares: by `source`, by a note, or by `cluster` (k-means of the problems' embedding, `clusters` of them): equal
            shares, those of the `target`, or numbers that sum to 1. Several are combined. If a group is too small, the
            best problems of other groups fill its places, and the funnel reports it.
        lengths: shares of short and long chains, by `scores.tokens`.
        target: a pool source of problems like those that matter. None of them may be in the pool.

    Goes through `rows` twice. Raises UserError for settings out of range, a score or note that rows lack, and a target
    problem that is in the pool.
    """
    _check_problems(k=k, by=by, prefer=prefer, tokens=tokens, shares=shares, target=target)
    shares = dict(shares or {})
    wanted = read_target(target, "problems.target") if target else []
    table = _tabulate(rows, by, preferred(by, prefer, "problems"), shares, counted=bool(tokens or lengths))
    questions = list(table["question"])
    if overlap := set(questions) & {row.question for row in wanted}:
        raise UserError(
            f"problems.target: {len(overlap)} of its problems are in the pool, such as {min(overlap)[:80]!r}"
        )
    if by == TARGET:
        table["value"] = nearest_in_turn([row.question for row in wanted], questions, seed)
    if "cluster" in shares:
        asked = [*questions, *(row.question for row in wanted)]
        found = list(map(str, cluster(embed(asked, dimensions=DIMENSIONS, seed=seed), clusters, seed)))
        table["cluster"] = found[: len(questions)]
        wanted = [
            replace(row, notes={**row.notes, "cluster": at})
            for row, at in zip(wanted, found[len(questions) :], strict=True)
        ]
    dimensions = {name: _resolve_share(name, table[name], want, wanted) for name, want in shares.items()}
    if lengths:
        table["length"] = np.where(table["first_tokens"] <= lengths.tokens, "short", "long")
        dimensions["length"] = {"short": lengths.short, "long": 1 - lengths.short}
    table["order"] = [_order(seed, f"problem/{problem}") for problem in table.index]
    chosen, refused = _pick(table.sort_values(["value", "order"]), k, tokens, dimensions, by)
    places = {problem: place for place, problem in enumerate(chosen)}
    kept: list[tuple[int, int, Example]] = []
    for number, row in enumerate(rows):
        if row.problem in places:
            kept.append((places[row.problem], number, row))
        else:
            yield drop(row, *refused[row.problem])
    yield from (row for *_, row in sorted(kept, key=lambda entry: entry[:2]))


def _tabulate(rows: Iterable[Example], by: str, prefer: Prefer, shares: Shares, counted: bool) -> "pd.DataFrame":
    """Tabulate the problems: for each the value of its best chain (lower is better), the tokens of all its chains, and
    its groups.
    """
    import pandas as pd

    records, noted = list[dict[str, Any]](), {"source", "cluster"}
    for row in rows:
        tokens = read_score(row, "tokens", "problems.tokens") if counted else 0.0
        value = 0.0 if by in NO_SCORES else KEYS[prefer](read_score(row, by, "problems.by"))
        groups = {name: str({"source": row.source, "cluster": "", **row.notes}.get(name, "")) for name in shares}
        noted.update(row.notes)
        records.append({"problem": row.problem, "question": row.question, "value": value, "tokens": tokens, **groups})
    if records and (missing := [name for name in shares if name not in noted]):
        raise UserError(f"problems.shares: no row has a note '{missing[0]}'{suggest(missing[0], sorted(noted))}")
    chains = pd.DataFrame(records, columns=["problem", "question", "value", "tokens", *shares])
    how = {"value": ("value", "min"), "tokens": ("tokens", "sum"), "first_tokens": ("tokens", "first")}
    how |= {name: (name, "first") for name in ("question", *shares)}
    return chains.groupby("problem", sort=False).agg(**how)


def read_target(node: Mapping[str, Any], where: str) -> list[Example]:
    """Read the problems of a target, which is a node of a pool source. Raises UserError if none is usable."""
    rows = [row for row in bind(node, where)("target", "") if isinstance(row, Example)]
    if not rows:
        raise UserError(f"{where} has no usable problem")
    return rows


def _resolve_share(
    name: str, groups: Sequence[str], want: str | Mapping[str, float], target: Sequence[Example]
) -> dict[str, float]:
    """The share of each group."""
    present = sorted(set(groups))
    if isinstance(want, Mapping):
        return {str(group): share for group, share in want.items()}
    if want == "equal":
        return dict.fromkeys(present, 1 / len(present)) if present else {}
    counts = Counter(str({"source": row.source, **row.notes}.get(name, "")) for row in target)
    return {group: count / counts.total() for group, count in sorted(counts.items())}


def nearest_in_turn(target: Sequence[str], pool: Sequence[str], seed: int) -> list[float]:
    """Rank the problems of the pool: the targets take turns, and each takes the nearest remaining problem."""
    vectors = embed([*target, *pool], dimensions=DIMENSIONS, seed=seed)
    near = vectors[: len(target)] @ vectors[len(target) :].T
    queues = [iter(row) for row in np.argsort(-near, axis=1, kind="stable")]
    place: dict[int, float] = {}
    while len(place) < len(pool):
        for queue in queues:
            at = next((int(i) for i in queue if int(i) not in place), None)
            if at is not None:
                place[at] = float(len(place))
    return [place[at] for at in range(len(pool))]


def _pick(
    ranked: "pd.DataFrame",
    k: int | None,
    tokens: int | None,
    dimensions: Mapping[str, Mapping[str, float]],
    by: str,
) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Choose the problems. Returns those chosen, the best first, and for every other problem the reason why it was not
    chosen.
    """
    asked = split(len(ranked) if k is None else k, dimensions)
    room, allowed = Counter(asked), {cell for cell, count in asked.items() if count}
    left = {cell: math.inf if tokens is None else tokens * share for cell, share in _cell_shares(dimensions).items()}
    cells = list(zip(*(ranked[name] for name in dimensions), strict=True)) or [()] * len(ranked)
    listed = list(zip(ranked.index, ranked["tokens"], cells, strict=True))
    chosen = set[str]()
    for problem, cost, cell in listed:
        if room[cell] and cost <= left[cell]:
            chosen.add(problem)
            room[cell] -= 1
            left[cell] -= cost
    spare, budget = room.total(), sum(left.values())  # unused places and tokens of groups that are too small
    if k is not None and dimensions and spare:
        record(SHORT_OF, "; ".join(f"{_shown(dimensions, c)}: {n}" for c, n in sorted(room.items()) if n))
    refused: dict[str, tuple[str, str]] = {}
    for place, (problem, cost, cell) in enumerate(listed, 1):
        if problem in chosen:
            continue
        if spare and cell in allowed and cost <= budget:
            chosen.add(problem)
            spare, budget = spare - 1, budget - cost
        elif spare and cell in allowed:
            refused[problem] = "over the token budget", f"{cost:,.0f} tokens, {budget:,.0f} are left"
        elif dimensions:
            refused[problem] = "its share is full", f"{_shown(dimensions, cell)}: {asked.get(cell, 0)}"
        elif by == RANDOM:
            refused[problem] = NOT_DRAWN, f"{k} of {len(listed)} problems were"
        else:
            refused[problem] = f"not among the best {k}", f"place {place} of {len(listed)}"
    return [problem for problem, *_ in listed if problem in chosen], refused


def _shown(dimensions: Mapping[str, Any], cell: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(dimensions, cell, strict=True))


def split(count: int, dimensions: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, ...], int]:
    """Distribute `count` places over the combinations of groups by the largest-remainder method.

    >>> split(5, {"kind": {"a": 0.5, "b": 0.5}})
    {('a',): 3, ('b',): 2}
    """
    exact = {cell: count * share for cell, share in _cell_shares(dimensions).items()}
    whole = {cell: int(value + 1e-9) for cell, value in exact.items()}
    rest = sorted(exact, key=lambda cell: (whole[cell] - exact[cell], cell))
    for cell in rest[: count - sum(whole.values())]:
        whole[cell] += 1
    return whole


def _cell_shares(dimensions: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, ...], float]:
    """The share of each combination of groups. Without dimensions, a single group holds everything."""
    return {
        cell: math.prod(dimensions[name][group] for name, group in zip(dimensions, cell, strict=True))
        for cell in product(*dimensions.values())
    }


@stage("pool")
def subsample(rows: Iterable[Example], /, *, k: PositiveInt, seed: int) -> Iterator[Row]:
    """Keep `k` problems at random, for a pool larger than the budget. A larger `k` keeps the same ones and more.

    All chains of a problem stay or are dropped together. Goes through `rows` twice.
    """
    keys = array("Q", (digest(f"{seed}/{row.problem}") for row in rows))
    whole = set(keys)
    kept = whole if len(whole) <= k else set(heapq.nsmallest(k, whole))
    for key, row in zip(keys, rows, strict=True):
        if key in kept:
            yield row
        else:
            yield drop(row, "not in the subsample", f"{k:,} of {len(whole):,} problems are sampled")
