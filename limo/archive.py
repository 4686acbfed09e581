"""What a search for losses has tried, on the disk at once and for good.

    runs/<name>/candidates/007-grown_7/
        proposal.json    who proposed what, before anything is done with it
        candidate.py     its text, where it is a new one
        report.json      what came of looking at it (limo/sandbox.py), and its curve over rho
        seed-0/          a training: the run folder of limo.train, and score.json once it is measured
        confirm-seed-10/ the same on fresh data
    runs/<name>/archive.jsonl    all of it in short, a line each, made anew from the folders

A file that is there is whole, and what it says is not done again.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from limo.data import dump, replacing
from limo.noise import Scores, fitness


@dataclass(frozen=True)
class Proposal:
    """A loss to try."""

    name: str
    loss: str | Mapping[str, Any]  # as `train.loss` takes it; empty for a new one, which is its code
    code: str
    thought: str = ""
    tree: Any = None  # of limo/grammar.py, where it has one
    refused: str = ""  # why there is no loss in the reply
    replies: Sequence[Mapping[str, str]] = ()  # of a language model, each with why it was not taken


@dataclass(frozen=True)
class Entry:
    """A loss that was tried, as far as that has come."""

    folder: Path
    number: int
    proposal: Proposal
    report: Mapping[str, Any] = field(default_factory=dict)  # refused, warnings, slope, warmup, curve
    scores: Mapping[int, Scores] = field(default_factory=dict)  # by seed
    failed: str = ""  # why a training did not end with a model
    confirmed: Mapping[int, Scores] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its own in a search."""
        return self.proposal.name

    @property
    def known(self) -> bool:
        """Whether it was there before the search."""
        return bool(self.proposal.loss)

    @property
    def why_not(self) -> str:
        """Why it has no fitness; empty if it has, or is not there yet."""
        return self.proposal.refused or str(self.report.get("refused", "")) or self.failed

    @property
    def fitness(self) -> float | None:
        """The mean over seeds; None before the first."""
        return fmean(fitness(s) for s in self.scores.values()) if self.scores and not self.failed else None

    @property
    def loss(self) -> str | Mapping[str, Any]:
        """As `train.loss` takes it."""
        return self.proposal.loss or {"_target_": "limo.candidate.from_file", "path": str(self.folder / "candidate.py")}

    def to_json(self) -> dict[str, Any]:
        """Its line of `archive.jsonl`."""
        means = {
            str(seed): {measure: fmean(items.values()) for measure, items in scores.items()}
            for seed, scores in self.scores.items()
        }
        short = {k: v for k, v in self.report.items() if k not in ("curve", "refused", "name")}
        own = {"name": self.name, "known": self.known, "fitness": self.fitness, "why_not": self.why_not}
        said = {"loss": self.loss, "code": self.proposal.code, "thought": self.proposal.thought}
        return {"number": self.number, **own, "scores": means, **short, **said}


def folders(out: Path) -> list[Path]:
    """Of the proposals so far, in their order."""
    return sorted(path.parent for path in (out / "candidates").glob("*/proposal.json"))


def begin(out: Path, number: int, proposal: Proposal) -> Entry:
    """Keep a proposal. A new one's text is a file of its own, which is what is trained with."""
    folder = out / "candidates" / f"{number:03d}-{proposal.name}"
    keep(folder / "proposal.json", vars(proposal))
    return entry(folder)


def entry(folder: Path) -> Entry:
    """What is known of a candidate."""
    proposal = Proposal(**_read(folder / "proposal.json"))
    text = folder / "candidate.py"
    if not proposal.loss and not text.exists():
        with replacing(text) as file:
            file.write(proposal.code)
    found: dict[str, dict[int, Scores]] = {"seed-": {}, "confirm-seed-": {}}
    failed = ""
    for prefix, scores in found.items():
        for path in sorted(folder.glob(f"{prefix}*/score.json"), key=lambda p: int(p.parent.name.rpartition("-")[2])):
            score = _read(path)
            failed = failed or score["failed"]
            if not score["failed"]:
                scores[int(path.parent.name.removeprefix(prefix))] = score["scores"]
    report = _read(folder / "report.json") if (folder / "report.json").exists() else {}
    number = int(folder.name.partition("-")[0])
    return Entry(folder, number, proposal, report, found["seed-"], failed, found["confirm-seed-"])


def entries(out: Path) -> list[Entry]:
    """All of a search, in their order."""
    return [entry(folder) for folder in folders(out)]


def keep(file: Path, value: Any) -> None:
    """Write JSON that is whole once it is there."""
    with replacing(file) as out:
        json.dump(_finite(value), out, indent=1)  # in ASCII: a reply may hold half of a surrogate pair


def write_archive(out: Path, tried: Iterable[Entry]) -> None:
    """`archive.jsonl` from what is in the folders."""
    with replacing(out / "archive.jsonl") as file:
        file.writelines(dump(one.to_json()) for one in tried)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
