"""Reads a curation's results for the report, in one pass over the dropped rows.

Chains may be many and long, so for the other chains of chosen problems only offsets in `dropped.jsonl` are held.
"""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from eval.metrics import PARTS, as_text
from eval.report.listed import (
    Entry,
    Listed,
    Place,
    chain_entry,
    finite,
    is_row,
    read_choice,
    read_lines,
    read_terms,
    read_weights,
)
from limo.data import Example, read_jsonl
from limo.run import read_manifest

NUMBERS = ("score", "pass_rate", "tokens", "length", "characters")
KINDS = ("source", "teacher", "topic", "made", *PARTS)
VALUES = 1000  # a note with more different values is an identifier, and not counted


@dataclass
class Tally:
    """The scores and kinds of a group of rows."""

    numbers: dict[str, "array[float]"] = field(default_factory=lambda: {name: array("d") for name in NUMBERS})
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    rows: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row, given as JSON."""
        self.rows += 1
        for name, value in row.get("scores", {}).items():
            if name in self.numbers and finite(value) is not None:
                self.numbers[name].append(value)
        if row.get("completion"):
            self.numbers["characters"].append(len(row["completion"]))
        notes = row.get("notes", {})
        for kind, counted in self.kinds.items():
            value = row.get("source", "") if kind == "source" else notes.get(kind, "")
            if value not in ("", None) and len(counted) < VALUES:
                counted[as_text(value)] += 1


@dataclass
class Curated:
    """A curation's results."""

    chosen: list[Example]
    funnel: list[dict[str, Any]]
    problems: list[int]  # left after each stage of the funnel; empty for a run that finds its problems in pages
    kept: Tally
    dropped: Tally
    random: Tally | None  # the random control set, if there is one
    rivals: dict[str, list[tuple[Entry, Place]]]  # by problem of a chosen row: right chains first, then by score
    listed: Listed  # without rows: the score that chains were chosen by, and its parts


def gather(folder: Path) -> Curated | None:
    """Read what a report shows of the curation in `folder`; None if there are neither chosen rows nor a funnel."""
    entry = read_manifest(folder).get("curate", {})
    funnel = entry.get("results", {}).get("funnel", [])
    path = folder / "curated.jsonl"
    chosen = list(read_jsonl(path)) if path.is_file() else []
    if not chosen and not funnel:
        return None
    kept, dropped = Tally(), Tally()
    for row in chosen:
        kept.add(row.to_json())
    nodes = entry.get("settings", {}).get("stages", {}).values()
    listed = Listed(weights=read_weights(nodes), terms=read_terms(nodes), by=read_choice(entry))
    rivals: dict[str, list[tuple[Entry, Place]]] = {row.problem: [] for row in chosen}
    random, path = None, folder / "controls" / "random.jsonl"
    if path.is_file():
        random = Tally()
        for row in read_jsonl(path):
            random.add(row.to_json())
    path = folder / "dropped.jsonl"
    for at, line in read_lines(path):
        data = line["data"]
        if not is_row(data):
            continue
        problem = Example.from_json(data).problem
        dropped.add(data)
        if problem in rivals and data.get("completion"):
            why = (line["stage"], line["reason"])
            rivals[problem].append((chain_entry(data, "dropped", listed, folder.name, why), Place(path, at)))
    for chains in rivals.values():
        chains.sort(key=lambda chain: _rank(chain[0], listed.by[1]))
    problems = [line.get("problems", 0) for line in funnel]
    if any(after > before for before, after in pairwise(problems)):
        problems = []
    return Curated(chosen, funnel, problems, kept, dropped, random, rivals, listed)


def _rank(entry: Entry, more_is_better: bool) -> tuple[bool, bool, float]:
    score = entry["score"]
    return entry["verdict"] != "correct", score is None, -(score or 0) if more_is_better else score or 0
