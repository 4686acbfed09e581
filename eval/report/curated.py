"""A curation's results in a run's folder, read for the report in one pass over what was dropped.

Chains may be many and long, so of a chosen problem's other chains only their offsets in `dropped.jsonl` are held;
`rival_rows` reads them on demand.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from eval.metrics import PARTS, as_text
from limo.data import Example, parsed, read_jsonl
from limo.errors import UserError
from limo.run import read_manifest
from limo.words import term_lists

NUMBERS = ("score", "pass_rate", "tokens", "length", "characters")
KINDS = ("source", "teacher", *PARTS)
UNFINISHED = "cut off by its length limit"
VALUES = 1000  # different values of a note beyond which they are not counted: it is an identifier


@dataclass(frozen=True, slots=True)
class Part:
    """What one feature adds to a score."""

    name: str
    value: float  # as measured
    scaled: float  # in [0, 1], as its rank in the pool or between its percentiles
    weight: float
    share: float  # of the score: size of the weight times the scaled value, or what it lacks to 1 under a negative one


@dataclass(frozen=True, slots=True)
class Rival:
    """A chain of a chosen problem that was not chosen, and where `dropped.jsonl` has it."""

    at: int  # bytes from the file's beginning
    stage: str
    reason: str
    detail: str
    verdict: str  # correct, wrong, unsure, unfinished, or empty where it was not graded
    score: float | None


@dataclass
class Tally:
    """Numbers and kinds of some rows."""

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
    rivals: dict[str, list[Rival]]  # by problem: right chains first, then by score
    weights: dict[str, float]  # of the score
    terms: dict[str, list[str]]  # the score's words for verification, exploration and connectives


def gather(folder: Path) -> Curated | None:
    """Everything a report needs of the curation in `folder`; None if it has no chosen rows and no funnel."""
    entry = read_manifest(folder).get("curate", {})
    funnel = entry.get("results", {}).get("funnel", [])
    path = folder / "curated.jsonl"
    chosen = list(read_jsonl(path)) if path.is_file() else []
    if not chosen and not funnel:
        return None
    kept, dropped = Tally(), Tally()
    for row in chosen:
        kept.add(row.to_json())
    rivals: dict[str, list[Rival]] = {row.problem: [] for row in chosen}
    for at, line in _read_lines(folder / "dropped.jsonl"):
        data = line["data"]
        if not _is_row(data):
            continue
        problem = Example.from_json(data).problem
        dropped.add(data)
        if problem in rivals and data.get("completion"):
            rivals[problem].append(_read_rival(at, line))
    for chains in rivals.values():
        chains.sort(key=lambda r: (r.verdict != "correct", r.score is None, -(r.score or 0)))
    problems = [line.get("problems", 0) for line in funnel]
    if any(after > before for before, after in pairwise(problems)):
        problems = []
    nodes = entry.get("settings", {}).get("stages", {}).values()
    return Curated(chosen, funnel, problems, kept, dropped, rivals, read_weights(nodes), _read_terms(nodes))


def finite(value: Any) -> float | None:
    """A finite number; None for what a row lacks, NaN and infinities."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def read_weights(nodes: Any) -> dict[str, float]:
    """The weights of the score, from the stages of a recipe; empty if none has weights."""
    return next((dict(node["weights"]) for node in nodes if "weights" in node), {})


def score_parts(scores: Mapping[str, float], weights: Mapping[str, float]) -> list[Part]:
    """A score by its features, in the order of the weights. Features that a row lacks are left out.

    >>> score_parts({"length": 90.0, "length_rank": 0.5, "score": 0.5}, {"length": 1.0})
    [Part(name='length', value=90.0, scaled=0.5, weight=1.0, share=0.5)]
    """
    parts = []
    for name, weight in weights.items():
        value = finite(scores.get(name))
        scaled = finite(scores.get(f"{name}_rank", scores.get(f"{name}_minmax")))
        if value is not None and scaled is not None:
            share = abs(weight) * (scaled if weight >= 0 else 1 - scaled)
            parts.append(Part(name, value, scaled, weight, share))
    return parts


def rival_rows(folder: Path, rivals: list[Rival]) -> Iterator[Mapping[str, Any]]:
    """The rows of some rivals as JSON, in their order."""
    if not rivals:
        return
    with (folder / "dropped.jsonl").open("rb") as lines:
        for rival in rivals:
            lines.seek(rival.at)
            yield parsed(lines.readline())["data"]


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The dropped rows, each with its offset in the file in bytes."""
    if not path.is_file():
        return
    at = 0
    with path.open("rb") as lines:
        for line in lines:
            yield at, parsed(line)
            at += len(line)


def _is_row(data: Any) -> bool:
    return isinstance(data, dict) and "id" in data and bool(data.get("prompt")) and "answer" in data


def _read_rival(at: int, line: Mapping[str, Any]) -> Rival:
    row, reason = line["data"], line["reason"]
    verdicts = {"wrong answer": "wrong", "cannot be graded": "unsure", UNFINISHED: "unfinished"}
    verdict = verdicts.get(reason, str(row.get("notes", {}).get("verdict", "")))
    return Rival(at, line["stage"], reason, line["detail"], verdict, finite(row.get("scores", {}).get("score")))


def _read_terms(nodes: Any) -> dict[str, list[str]]:
    """The score's word lists. A user's own list may have been deleted since: then nothing is marked."""
    names = next((node["words"] for node in nodes if "words" in node), ["en"])
    try:
        return term_lists(names)
    except UserError:
        return {}
