"""Control sets, which a curated set has to beat: the same rows, chosen in another way.

    raw              as many rows of the raw pool, sampled at random, with wrong answers and copies
    random           as many problems, sampled at random
    random_chains    the same problems, a random chain each: shows the worth of choosing chains
    random_problems  as many random problems from the input of the last stage: shows the worth of choosing problems
    longest          as many problems, those with the longest chains
    easiest          as many problems, those that were solved most often
    random_tokens    random problems until there are as many tokens
    everything       one chain of every problem
    error_free       LEMMA: for each row a chain of the same problem without an error, so as many optimizer steps
    history_removed  RISE: the same rows, each with the prompt of its first turn

Each is `runs/<name>/controls/<kind>.jsonl`. All but `raw` are taken from the input rows of the stage `source`, one
chain per problem, so only the choice differs. Longer chains teach more in any case: against `random_tokens` a curated
set cannot win by its length alone. A recipe's `control` names the sets that `limo train` trains and `limo eval`
compares with the chosen set: chosen against `raw` shows the worth of curating, against `random` that of choosing.
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


SPARE = 100  # extra rows, in place of rows that leak


@dataclass(frozen=True, slots=True)
class Controls:
    """Which control sets a run makes."""

    source: str  # the sets are sampled from the input of this stage: usually the stage that chooses
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

    A chain's length is its `scores.tokens`, or its characters if tokens were not counted. Goes through `candidates`
    once to read their scores and once more for each set. Without pass rates there is no set `easiest`. `pool` holds the
    raw rows; `raw` is sampled from those that pass the `guards`, and is not made if the pool has no chains. `last`
    holds the input rows of the last stage.
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
    """For each chosen row, a chain of the same problem that contains no corrected error. A problem may occur several
    times.
    """
    clean = {row.problem: row for row in candidates if "error" not in row.notes}
    return (replace(clean[row.problem], id=f"{row.id}/error_free") for row in chosen)


def _without_history(chosen: Iterable[Example]) -> Iterator[Example]:
    """The chosen rows with their prompts cut after the problem, so without earlier answers and feedback."""
    for row in chosen:
        history = row.notes["turns"]["history"]
        yield replace(row, prompt=row.prompt[: len(row.prompt) - history])


def random_set(rows: Sequence[Example], k: int, seed: int, like: Sequence[Example] = ()) -> list[Example]:
    """One random chain for each of `k` random problems, or for as many as reach the tokens of the set `like`."""
    table = _table(rows, seed)
    tokens = sum(_length(row) for row in like)
    return list(_rows(rows, list(_pick("random_tokens" if like else "random", table, k, tokens).index)))


def _length(row: Example) -> float:
    return float(row.scores.get("tokens", len(row.completion)))


def _table(rows: Iterable[Example], seed: int) -> "pd.DataFrame":
    """The columns that a control set is chosen by, as arrays. `key` orders by problem, then by chain, so that problems
    with many chains are not preferred.

    The two orders are independent: otherwise a chain with the id of its problem would come first in the first problems.
    """
    import pandas as pd

    def each() -> Iterator[tuple[Any, ...]]:
        for row in rows:
            key = content_id([seed, "problem", row.problem], 16) + content_id([seed, "chain", row.id], 16)
            yield row.problem, key, _length(row), row.scores.get("pass_rate", -1.0)

    return pd.DataFrame(each(), columns=["problem", "key", "length", "rate"])


def _pick(kind: str, table: "pd.DataFrame", count: int, tokens: float, chosen: Collection[str] = ()) -> "pd.DataFrame":
    """Take one chain per problem, in the order that defines this kind of set, until there are enough rows or tokens."""
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
    worse = (total - tokens).abs() > (total - ranked["length"] - tokens).abs()  # the next chain would overshoot by more
    return ranked.head(int(worse.to_numpy().argmax()) if worse.any() else len(ranked))


def _rows(candidates: Iterable[Example], picked: list[int]) -> Iterator[Example]:
    wanted = set(picked)
    found = {at: row for at, row in enumerate(candidates) if at in wanted}
    return (found[at] for at in picked)


def _size(table: "pd.DataFrame") -> dict[str, float]:
    return {"rows": len(table), "length": float(table["length"].sum())}
