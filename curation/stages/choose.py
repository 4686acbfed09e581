"""The choice, in two stages with two questions: which chains of a problem, and which problems.

    chains:   {_target_: curation.stages.choose.chains, by: nll_inner, prefer: lowest, at_most: 1, seed: 0}
    problems: {_target_: curation.stages.choose.problems, k: 800, by: random, shares: {source: equal}, seed: 0}

What is known about the two is different (docs/choosing.md): a score can tell good chains of a problem from bad ones,
while few ways to choose problems beat a random choice. Ties are broken by `seed`, so the order of rows decides nothing.
`curation/controls.py` makes the sets that a choice has to beat.
"""

import heapq
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from curation.embed import cluster, embed
from curation.similar import digest
from curation.stage import NO_SCORES, drop, stage
from curation.stage_metrics import record
from curation.stages.score import read_score
from limo.data import Example, Row
from limo.errors import UserError
from limo.recipe import InputPath, bind, suggest

Prefer = Literal["lowest", "highest", "middle"]
RANDOM, TARGET = NO_SCORES
SHORT_OF = "fewer rows than asked for"  # the metric of shares that the pool cannot fill
DIMENSIONS = 128  # of an embedding

# Distance of a value from the preferred one: less is better
KEYS: Mapping[str, Callable[[float], float]] = {
    "lowest": lambda value: value,
    "highest": lambda value: -value,
    "middle": lambda value: abs(value - 0.5),
}


def _order(seed: int, text: str) -> int:
    """A random number that belongs to a text."""
    return digest(f"{seed}/{text}")


def _check_chains(*, at_most: int, **_: object) -> None:
    if at_most < 1:
        raise UserError(f"chains.at_most must be at least 1, not {at_most}")


@stage("problem", reads=("{by}",), check=_check_chains)
def chains(rows: Iterable[Example], /, *, by: str, prefer: Prefer, at_most: int, seed: int) -> Iterator[Row]:
    """Keep the best `at_most` chains of each problem by `scores[by]`; `by: random` takes any.

    `prefer` is whether the lowest value is best, the highest, or the one nearest to 0.5. Goes through `rows` twice.
    """
    _check_chains(at_most=at_most)
    best: defaultdict[int, list[tuple[float, int, str]]] = defaultdict(list)  # the worst of the kept ones first
    for row in rows:
        value = 0.0 if by == RANDOM else KEYS[prefer](read_score(row, by, "chains.by"))
        entry = (-value, _order(seed, f"chain/{row.id}"), row.id)
        kept = best[digest(row.problem)]
        (heapq.heappush if len(kept) < at_most else heapq.heappushpop)(kept, entry)
    for row in rows:
        kept = best[digest(row.problem)]
        if any(key == row.id for *_, key in kept):
            yield row
        else:
            rival = max(kept)[-1]
            shown = "" if by == RANDOM else f", this one has {by} {row.scores[by]:.3f}"
            yield drop(row, "better chain of the same problem", f"{rival}{shown}")


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the chosen chains are, as a mixture of short and long ones."""

    short: float  # the share of chains of at most `tokens` tokens, from 0 to 1; the others are longer
    tokens: int


Shares = Mapping[str, Literal["equal", "target"] | Mapping[str, float]]


def _check_problems(
    *,
    k: int | None,
    by: str,
    tokens: int | None = None,
    shares: Shares | None = None,
    lengths: Lengths | None = None,
    target: Mapping[str, Any] | None = None,
    **_: object,
) -> None:
    if (k is None and tokens is None) or (k is not None and k < 1) or (tokens is not None and tokens < 1):
        raise UserError(f"problems needs k or tokens of at least 1: k is {k}, tokens {tokens}")
    if lengths and not 0 <= lengths.short <= 1:
        raise UserError(f"problems.lengths.short is a share from 0 to 1, not {lengths.short}")
    for name, wanted in (shares or {}).items():
        if isinstance(wanted, Mapping) and (abs(sum(wanted.values()) - 1) > 1e-6 or min(wanted.values()) < 0):
            raise UserError(f"problems.shares.{name} must be shares that sum to 1: {dict(wanted)}")
    if (by == TARGET or "target" in (shares or {}).values()) and not target:
        raise UserError("problems.target is missing: give a pool source with a few target problems")


@stage("pool", reads=("{by}",), check=_check_problems)
def problems(
    rows: Iterable[Example],
    /,
    *,
    k: int | None,
    by: str,
    seed: int,
    prefer: Prefer = "highest",
    tokens: int | None = None,
    shares: Shares | None = None,
    lengths: Lengths | None = None,
    clusters: int = 20,
    target: dict[str, Any] | None = None,
    embedding: InputPath = "tfidf",
) -> Iterator[Row]:
    """Keep `k` problems with all of their chains, or as many as `tokens` tokens allow; the best come first.

    Args:
        by: a score, of which a problem has that of its best chain; `random`; or `target`, which takes the problems
            nearest to those of `target`, one for each of them in turn.
        prefer: see `chains`; `middle` of a pass rate is middle difficulty.
        shares: by `source`, by a note, or by `cluster` (k-means of the problems' embedding, `clusters` of them): equal
            shares, those of the `target`, or numbers that sum to 1. Several are combined. A group that is too small
            leaves its place to the best others, and the funnel says so.
        lengths: shares of short and long chains, by `scores.tokens`.
        target: a pool source of problems like those that matter. None of them may be in the pool.
        embedding: see `curation.embed.embed`.

    Goes through `rows` twice. Raises UserError for settings out of range, a score or note that rows lack, and a target
    problem that is in the pool.
    """
    _check_problems(k=k, by=by, tokens=tokens, shares=shares, lengths=lengths, target=target)
    shares = dict(shares or {})
    wanted = _read_target(target) if target else []
    pool = _Pool.read(rows, by, prefer, seed, shares, lengths, counted=tokens is not None)
    overlap = set(pool.questions) & {row.question for row in wanted}
    if overlap:
        raise UserError(
            f"problems.target: {len(overlap)} of its problems are in the pool, such as {min(overlap)[:80]!r}"
        )
    if by == TARGET:
        pool.values = nearest_in_turn([row.question for row in wanted], pool.questions, embedding, seed)
    if "cluster" in shares:
        vectors = embed(pool.questions, model=embedding, dimensions=DIMENSIONS, seed=seed)
        pool.groups["cluster"] = list(map(str, cluster(vectors, clusters, seed)))
    dimensions = {name: _resolve_share(name, pool.groups[name], want, wanted) for name, want in shares.items()}
    if lengths:
        dimensions["length"] = {"short": lengths.short, "long": 1 - lengths.short}
    chosen, refused = _pick(pool, k, tokens, dimensions)
    places = {pool.names[at]: place for place, at in enumerate(chosen)}
    kept: list[tuple[int, int, Example]] = []
    for number, row in enumerate(rows):
        name = digest(row.problem)
        if name in places:
            kept.append((places[name], number, row))
        else:
            yield drop(row, *refused[name])
    yield from (row for *_, row in sorted(kept, key=lambda entry: entry[:2]))


@dataclass
class _Pool:
    """The problems as columns, each at its own position."""

    names: list[int]  # digests
    questions: list[str]
    values: list[float]  # less is better
    order: list[int]  # of ties
    tokens: list[float]  # of all chains of a problem
    groups: dict[str, list[str]]  # by share

    @classmethod
    def read(
        cls,
        rows: Iterable[Example],
        by: str,
        prefer: Prefer,
        seed: int,
        shares: Shares,
        lengths: Lengths | None,
        counted: bool,
    ) -> "_Pool":
        at: dict[int, int] = {}
        pool = cls([], [], [], [], [], {name: [] for name in [*shares, "length"]})
        found = set[str]()
        for row in rows:
            value = 0.0 if by in (RANDOM, TARGET) else KEYS[prefer](read_score(row, by, "problems.by"))
            length = read_score(row, "tokens", "problems.tokens") if counted or lengths else 0.0
            name = digest(row.problem)
            if name in at:
                place = at[name]
                pool.values[place] = min(pool.values[place], value)
                pool.tokens[place] += length
                continue
            at[name] = len(pool.names)
            notes = {"source": row.source, "cluster": "", **row.notes}
            found.update(notes)
            pool.names.append(name)
            pool.questions.append(row.question if by == TARGET or "cluster" in shares else "")
            pool.values.append(value)
            pool.order.append(_order(seed, f"problem/{row.problem}"))
            pool.tokens.append(length)
            for share in shares:
                pool.groups[share].append(str(notes.get(share, "")))
            pool.groups["length"].append("short" if lengths and length <= lengths.tokens else "long")
        if pool.names and (missing := [name for name in shares if name not in found]):
            raise UserError(f"problems.shares: no row has a note '{missing[0]}'{suggest(missing[0], sorted(found))}")
        return pool


def _read_target(node: Mapping[str, Any]) -> list[Example]:
    rows = [row for row in bind(node, "problems.target")("target", "") if isinstance(row, Example)]
    if not rows:
        raise UserError("problems.target has no usable problem")
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


def nearest_in_turn(target: Sequence[str], pool: Sequence[str], embedding: str, seed: int) -> list[float]:
    """For each problem of the pool its place in the order in which the targets, in turn, take the nearest one left."""
    vectors = embed([*target, *pool], model=embedding, dimensions=DIMENSIONS, seed=seed)
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
    pool: _Pool, k: int | None, tokens: int | None, dimensions: Mapping[str, Mapping[str, float]]
) -> tuple[list[int], dict[int, tuple[str, str]]]:
    """Positions of the chosen problems, the best first, and of every other problem why it was not chosen."""
    ranked = sorted(range(len(pool.names)), key=lambda at: (pool.values[at], pool.order[at]))
    cells = [tuple(pool.groups[name][at] for name in dimensions) for at in range(len(pool.names))]
    room = dict.fromkeys(cells, 0) | split(len(pool.names) if k is None else k, dimensions)
    left = dict.fromkeys(cells, 0.0) | {
        cell: math.inf if tokens is None else tokens * share for cell, share in _cell_shares(dimensions).items()
    }
    allowed, asked = {cell for cell in room if room[cell]}, dict(room)
    chosen, waiting = list[int](), list[int]()
    refused: dict[int, tuple[str, str]] = {}
    for at in ranked:
        cell = cells[at]
        if room[cell] and pool.tokens[at] <= left[cell]:
            chosen.append(at)
            room[cell] -= 1
            left[cell] -= pool.tokens[at]
        else:
            waiting.append(at)
    spare, budget = sum(room.values()), sum(left.values())  # of groups that are too small
    if k is not None and dimensions and spare:
        record(SHORT_OF, "; ".join(f"{_shown(dimensions, c)}: {n}" for c, n in sorted(room.items()) if n))
    place = {at: number for number, at in enumerate(ranked, 1)}
    for at in waiting:
        cell = cells[at]
        if spare and cell in allowed and pool.tokens[at] <= budget:
            chosen.append(at)
            spare, budget = spare - 1, budget - pool.tokens[at]
        elif spare and cell in allowed:
            refused[pool.names[at]] = "over the token budget", f"{pool.tokens[at]:,.0f} tokens, {budget:,.0f} are left"
        elif dimensions:
            refused[pool.names[at]] = "its share is full", f"{_shown(dimensions, cell)}: {asked[cell]}"
        else:
            refused[pool.names[at]] = f"not among the best {k}", f"place {place[at]} of {len(ranked)}"
    return sorted(chosen, key=lambda at: (pool.values[at], pool.order[at])), refused


def _shown(dimensions: Mapping[str, Any], cell: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(dimensions, cell, strict=True))


def split(count: int, dimensions: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, ...], int]:
    """How many of `count` each combination of groups gets, by largest remainder.

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
    """The share of each combination of groups; of no dimension at all, everything."""
    return {
        cell: math.prod(dimensions[name][group] for name, group in zip(dimensions, cell, strict=True))
        for cell in product(*dimensions.values())
    }


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
    whole = set(keys)
    kept = whole if len(whole) <= k else set(heapq.nsmallest(k, whole))
    for key, row in zip(keys, rows, strict=True):
        if key in kept:
            yield row
        else:
            yield drop(row, "not in the subsample", f"{k:,} of {len(whole):,} problems are sampled")
