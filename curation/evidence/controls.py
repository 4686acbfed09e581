"""The sets that a curated set has to beat: of the same rows, chosen otherwise.

    raw              as many rows of the pool as it came, sampled at random: wrong answers, copies and all
    random           as many problems, sampled at random
    random_chains    of the same problems, a random chain each: what the choice of chains is worth
    random_problems  of the rows that came into the last stage, as many problems at random: what their choice is worth
    longest          as many, those with the longest chains
    easiest          as many, those that were solved most often
    random_tokens    sampled at random until there are as many tokens
    everything       one chain of every problem
    error_free       LEMMA: a chain without an error for each row, of the same problem, so as many optimizer steps
    history_removed  RISE: the same rows, each with the prompt of its first turn

Each is `runs/<name>/controls/<kind>.jsonl`, all but `raw` of rows that came into the stage `source`, one chain of a
problem, so only the choice differs. Longer chains teach more, in any case: beside `random_tokens` a curated set cannot
win by its length alone. A recipe's `control` names those that `limo train` trains and `limo eval` compares with the
chosen set: chosen against `raw` is what curating is worth, chosen against `random` what choosing is worth.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from limo.data import Example, Row, content_id, write_jsonl

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal[
    "raw",
    "random",
    "random_chains",
    "random_problems",
    "longest",
    "easiest",
    "everything",
    "random_tokens",
    "error_free",
    "history_removed",
]


SPARE = 100  # rows more than are needed, for those that leak


@dataclass(frozen=True, slots=True)
class Controls:
    """Which control sets a run makes."""

    source: str  # the stage into which the rows came that the sets are sampled from: the one that chooses, as a rule
    kinds: list[Kind]
    seed: int


Guard = Callable[[Iterable[Example]], Iterable[Row]]


def write_controls(
    folder: Path,
    candidates: Iterable[Example],
    chosen: Iterable[Example],
    controls: Controls,
    pool: Iterable[Example] = (),
    guards: Sequence[Guard] = (),
    last: Iterable[Example] = (),
) -> dict[str, Any]:
    """Write the control sets into `folder`. Returns rows and tokens of each, the curated set's first.

    A chain's length is its `scores.tokens`, or its characters where none were counted. Goes through `candidates` once
    for their numbers and once more for each set. Without any pass rate there is no easiest set. `pool` are the rows as
    they came, of which those that pass the `guards` can be `raw`; a pool without chains of its own has no such set.
    `last` are the rows that came into the last stage.
    """
    table, curated = _table(candidates, controls.seed), _table(chosen, controls.seed)
    found = {"curated": _size(curated)}
    for kind in controls.kinds:
        if kind in ("error_free", "history_removed"):
            rows = list(_without_errors(candidates, chosen) if kind == "error_free" else _without_history(chosen))
            write_jsonl(folder / f"{kind}.jsonl", rows)
            found[kind] = _size(_table(rows, controls.seed))
            continue
        if kind == "raw":
            if rows := _raw_rows(pool, guards, len(curated), controls.seed):
                write_jsonl(folder / "raw.jsonl", rows)
                found[kind] = _size(_table(rows, controls.seed))
            continue
        if kind == "random_problems":
            rows = random_set(list(last), len(curated), controls.seed)
            write_jsonl(folder / f"{kind}.jsonl", rows)
            found[kind] = _size(_table(rows, controls.seed))
            continue
        picked = _pick(kind, table, len(curated), curated["length"].sum(), set(curated["problem"]))
        if len(picked):
            write_jsonl(folder / f"{kind}.jsonl", _rows(candidates, list(picked.index)))
            found[kind] = _size(picked)
    return found


def _raw_rows(pool: Iterable[Example], guards: Sequence[Guard], count: int, seed: int) -> list[Example]:
    """`count` random rows with a chain, without leaks."""
    keys = ((content_id([seed, "raw", row.id]), row.id) for row in pool if row.completion)
    order = [key for _, key in heapq.nsmallest(2 * count + SPARE, keys)]
    wanted = set(order)
    rows: Iterable[Row] = (row for row in pool if row.id in wanted)
    for guard in guards:
        rows = guard([row for row in rows if isinstance(row, Example)])
    left = {row.id: row for row in rows if isinstance(row, Example)}
    return [left[key] for key in order if key in left][:count]


def _without_errors(candidates: Iterable[Example], chosen: Iterable[Example]) -> Iterator[Example]:
    """For each chosen row a chain of the same problem in which no error is corrected; some problems come twice."""
    clean = {row.problem: row for row in candidates if "error" not in row.notes}
    return (replace(clean[row.problem], id=f"{row.id}/error_free") for row in chosen)


def _without_history(chosen: Iterable[Example]) -> Iterator[Example]:
    """The chosen rows, each with its prompt up to the problem: no earlier answers, no feedback."""
    for row in chosen:
        history = row.notes["turns"]["history"]
        yield replace(row, prompt=row.prompt[: len(row.prompt) - history])


def random_set(rows: Sequence[Example], k: int, seed: int, like: Sequence[Example] = ()) -> list[Example]:
    """One random chain each of `k` random problems, or of as many as have the tokens of the set `like`."""
    table = _table(rows, seed)
    tokens = sum(_length(row) for row in like)
    return list(_rows(rows, list(_pick("random_tokens" if like else "random", table, k, tokens).index)))


def _length(row: Example) -> float:
    return float(row.scores.get("tokens", len(row.completion)))


def _table(rows: Iterable[Example], seed: int) -> "pd.DataFrame":
    """The rows as numbers, by position. `key` orders by problem, then by chain: more chains give no better chance.

    The two orders are independent: a chain whose id is that of its problem would come first in the first problems.
    """
    import pandas as pd

    def each() -> Iterator[tuple[Any, ...]]:
        for row in rows:
            key = content_id([seed, "problem", row.problem], 16) + content_id([seed, "chain", row.id], 16)
            yield row.problem, key, _length(row), row.scores.get("pass_rate", -1.0)

    return pd.DataFrame(each(), columns=["problem", "key", "length", "rate"])


def _pick(kind: str, table: "pd.DataFrame", count: int, tokens: float, chosen: Collection[str] = ()) -> "pd.DataFrame":
    """One chain of a problem, in the order of the kind, until there are enough rows or tokens."""
    if kind == "easiest":
        table = table[table["rate"] >= 0]
    if kind == "random_chains":
        table = table[table["problem"].isin(chosen)]
    first = {"longest": ["length"], "easiest": ["rate"]}.get(kind, [])
    ranked = table.sort_values([*first, "key"], ascending=[False] * len(first) + [True]).drop_duplicates("problem")
    if kind == "everything":
        return ranked
    if kind != "random_tokens":
        return ranked.head(count)
    total = ranked["length"].cumsum()
    worse = (total - tokens).abs() > (total - ranked["length"] - tokens).abs()  # the next chain leads away from the aim
    return ranked.head(int(worse.to_numpy().argmax()) if worse.any() else len(ranked))


def _rows(candidates: Iterable[Example], picked: list[int]) -> Iterator[Example]:
    wanted = set(picked)
    found = {at: row for at, row in enumerate(candidates) if at in wanted}
    return (found[at] for at in picked)


def _size(table: "pd.DataFrame") -> dict[str, float]:
    return {"rows": len(table), "length": float(table["length"].sum())}
