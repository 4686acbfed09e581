"""The sets that a curated set has to beat: of the same rows, chosen otherwise.

    runs/<name>/controls/random.jsonl         as many problems, drawn at random
    runs/<name>/controls/longest.jsonl        as many, those with the longest chains
    runs/<name>/controls/easiest.jsonl        as many, those that were solved most often
    runs/<name>/controls/random_tokens.jsonl  drawn at random until there are as many tokens (so with longest, easiest)
    runs/<name>/controls/everything.jsonl     one chain of every problem
    runs/<name>/controls/error_free.jsonl     the same, of chains in which no error is mended (`curation/errors.py`)

All are drawn from the rows that came into the stage `source`, one chain of a problem, so only the choice differs.
Longer chains teach more, whatever else they are: without the last set, a curated one that is longer than random may win
by its length alone. To test the claim:

    python -m limo.train --multirun recipe=limo train.data=runs/limo/curated.jsonl,runs/limo/controls/random.jsonl
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.data import Example, content_id, write_jsonl
from limo.errors import UserError

KINDS = ("random", "longest", "easiest", "everything")
BY_TOKENS = ("random_tokens", "longest_tokens", "easiest_tokens", "error_free")


@dataclass(frozen=True, slots=True)
class Controls:
    """Which control sets a run makes."""

    source: str  # the stage into which the rows came that the sets are drawn from: the one that chooses, as a rule
    kinds: list[str]
    seed: int

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in KINDS + BY_TOKENS]:
            raise UserError(f"controls.kinds: there is no '{unknown[0]}'; there are {', '.join(KINDS + BY_TOKENS)}")


@dataclass(frozen=True, slots=True)
class _Entry:
    at: int
    problem: str
    lot: str  # what a draw sorts by
    length: float
    rate: float
    error: bool


def make(folder: Path, candidates: Iterable[Example], chosen: Iterable[Example], controls: Controls) -> dict[str, Any]:
    """Write the control sets into `folder`. Returns rows and tokens of each, the curated set's first.

    A chain's length is its `scores.tokens`, or its characters where none were counted. Goes through `candidates` once
    for their numbers and once more for each set. Without any pass rate there is no easiest set.
    """
    entries = [_entry(at, row, controls.seed) for at, row in enumerate(candidates)]
    curated = [_entry(at, row, controls.seed) for at, row in enumerate(chosen)]
    found = {"curated": _size(curated)}
    for kind in controls.kinds:
        picked = _pick(kind, entries, len(curated), sum(entry.length for entry in curated))
        if picked:
            write_jsonl(folder / f"{kind}.jsonl", _rows(candidates, picked))
            found[kind] = _size(picked)
    return found


def _entry(at: int, row: Example, seed: int) -> _Entry:
    # By problem, then by chain: a problem with many chains is drawn no sooner than one with a single one
    lot = content_id([seed, row.problem], 16) + content_id([seed, row.id], 16)
    length = row.scores.get("tokens", float(len(row.completion)))
    return _Entry(at, row.problem, lot, length, row.scores.get("pass_rate", -1.0), "error" in row.notes)


def _pick(kind: str, entries: list[_Entry], count: int, tokens: float) -> list[_Entry]:
    order: dict[str, Callable[[_Entry], Any]] = {
        "longest": lambda entry: (-entry.length, entry.lot),
        "easiest": lambda entry: (-entry.rate, entry.lot),
    }
    first = order.get(kind.removesuffix("_tokens"), lambda entry: entry.lot)
    allowed = [entry for entry in entries if entry.rate >= 0] if kind.startswith("easiest") else entries
    allowed = [entry for entry in entries if not entry.error] if kind == "error_free" else allowed
    single = list({entry.problem: entry for entry in sorted(allowed, key=first, reverse=True)}.values())
    ranked = sorted(single, key=first)
    if kind == "everything":
        return ranked
    return _until(ranked, tokens) if kind in BY_TOKENS else ranked[:count]


def _until(entries: list[_Entry], tokens: float) -> list[_Entry]:
    """The first entries whose lengths come nearest to `tokens`."""
    total, picked = 0.0, list[_Entry]()
    for entry in entries:
        if abs(total + entry.length - tokens) > abs(total - tokens):
            break
        total += entry.length
        picked.append(entry)
    return picked


def _rows(candidates: Iterable[Example], picked: list[_Entry]) -> Iterator[Example]:
    wanted = {entry.at: place for place, entry in enumerate(picked)}
    found = {wanted[at]: row for at, row in enumerate(candidates) if at in wanted}
    return (found[place] for place in sorted(found))


def _size(entries: list[_Entry]) -> dict[str, float]:
    return {"rows": len(entries), "length": sum(entry.length for entry in entries)}
