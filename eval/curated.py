"""What a curation has left in a run's folder, gathered for the report in one pass over what was set aside.

Chains may be many and long, so of a chosen problem's other chains only their place in `dropped.jsonl` is held;
`rival_rows` reads them when they are wanted.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.metrics import PARTS, as_text
from limo.data import Example, parsed, read_jsonl
from limo.errors import UserError
from limo.manifest import read_manifest
from limo.words import term_lists

NUMBERS = ("score", "pass_rate", "tokens", "length", "characters")
KINDS = ("source", "teacher", *PARTS)
UNFINISHED = "cut off by its length limit"
FINDERS = ("curation.harvest.stated", "curation.harvest.asked")  # stages before which a row is an archive or a page
VALUES = 1000  # different values of a note beyond which they are not counted: it is no kind of problem


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
    verdict: str  # correct, wrong, unsure, unfinished, or empty where nobody looked
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
    problems: list[int]  # problems left after each stage of the funnel; empty where that cannot be told
    found: int  # the line of the funnel from which a row is a problem: where it is found in a page; 0 without pages
    kept: Tally
    dropped: Tally
    rivals: dict[str, list[Rival]]  # by problem: right chains first, then by score
    weights: dict[str, float]  # of the score
    terms: dict[str, list[str]]  # what the score took for verification, exploration and connectives


def gathered(folder: Path) -> Curated | None:
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
    stages = [line["stage"] for line in funnel]
    last = {origin(row): len(stages) for row in chosen}  # the stage at which a problem's last row left
    order = {name: number for number, name in enumerate(stages)}
    for at, line in _lines(folder / "dropped.jsonl"):
        data = line["data"]
        if not _is_row(data):
            continue
        left = Example.from_json(data)
        problem, first = left.problem, origin(left)
        dropped.add(data)
        last[first] = max(last.get(first, 0), order.get(line["stage"], 0))
        if problem in rivals and data.get("completion"):
            rivals[problem].append(_rival(at, line))
    for found in rivals.values():
        found.sort(key=lambda r: (r.verdict != "correct", r.score is None, -(r.score or 0)))
    left_at = Counter(last.values())
    problems = [sum(count for stage, count in left_at.items() if stage > number) for number in range(len(stages))]
    named = entry.get("settings", {}).get("stages", {})
    finders = [order[name] for name, node in named.items() if name in order and node.get("_target_") in FINDERS]
    nodes = named.values()
    return Curated(
        chosen, funnel, problems, max(finders, default=0), kept, dropped, rivals, weights(nodes), _terms(nodes)
    )


def origin(row: Example) -> str:
    """The problem of the pool that a row comes from: a later turn at it has a prompt of its own."""
    return str(row.notes.get("turns", {}).get("of") or row.problem)


def finite(value: Any) -> float | None:
    """A number that can be drawn; None for what a row lacks, NaN and infinities."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def weights(nodes: Any) -> dict[str, float]:
    """The weights of the score, from the stages of a recipe; empty if none weighs."""
    return next((dict(node["weights"]) for node in nodes if "weights" in node), {})


def score_parts(scores: Mapping[str, float], weights: Mapping[str, float]) -> list[Part]:
    """A score taken apart, in the order of the weights. Features that a row lacks are left out.

    >>> score_parts({"length": 90.0, "length_rank": 0.5, "score": 0.5}, {"length": 1.0})
    [Part(name='length', value=90.0, scaled=0.5, weight=1.0, share=0.5)]
    """
    found = []
    for name, weight in weights.items():
        value = finite(scores.get(name))
        scaled = finite(scores.get(f"{name}_rank", scores.get(f"{name}_minmax")))
        if value is not None and scaled is not None:
            share = abs(weight) * (scaled if weight >= 0 else 1 - scaled)
            found.append(Part(name, value, scaled, weight, share))
    return found


def rival_rows(folder: Path, rivals: list[Rival]) -> Iterator[Mapping[str, Any]]:
    """The rows of some rivals as JSON, in their order."""
    if not rivals:
        return
    with (folder / "dropped.jsonl").open("rb") as lines:
        for rival in rivals:
            lines.seek(rival.at)
            yield parsed(lines.readline())["data"]


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What was set aside, each with its place in the file in bytes."""
    if not path.is_file():
        return
    at = 0
    with path.open("rb") as lines:
        for line in lines:
            yield at, parsed(line)
            at += len(line)


def _is_row(data: Any) -> bool:
    return isinstance(data, dict) and "id" in data and bool(data.get("prompt")) and "answer" in data


def _rival(at: int, line: Mapping[str, Any]) -> Rival:
    row, reason = line["data"], line["reason"]
    told = {"wrong answer": "wrong", "cannot be graded": "unsure", UNFINISHED: "unfinished"}
    verdict = told.get(reason, str(row.get("notes", {}).get("verdict", "")))
    return Rival(at, line["stage"], reason, line["detail"], verdict, finite(row.get("scores", {}).get("score")))


def _terms(nodes: Any) -> dict[str, list[str]]:
    """The score's word lists. A list of one's own may be gone by now: then nothing is marked."""
    names = next((node["words"] for node in nodes if "words" in node), ["en"])
    try:
        return term_lists(names)
    except UserError:
        return {}
