"""The archive of a search for losses: each result is written to the disk at once.

    runs/<name>/candidates/007-grown_7/
        proposal.json    name, text, thought and replies, written before the checks
        checks.json      the result of its checks (limo/discover/checks.py)
        candidate.py     a new loss that passed the checks, without annotations: importing it does nothing
        seed-0/          a training: the run folder of limo.train, and score.json once it is measured
        confirm-seed-10/ the same on fresh data

Each file appears only once it is complete. Work whose file exists is not repeated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from limo.data import dump, replacing
from limo.discover.noise import Scores, fitness


@dataclass(frozen=True)
class Proposal:
    """A loss to try."""

    name: str
    loss: str | Mapping[str, Any]  # a known loss, as in `train.loss`; empty for a new loss, which is in its code
    code: str
    thought: str = ""
    expression: str = ""  # the loss in the grammar of limo/discover/proposers.py, if it has one
    refused: str = ""  # why the reply holds no loss
    replies: Sequence[Mapping[str, str]] = ()  # replies of a language model, each with the reason against it


@dataclass(frozen=True)
class CheckResult:
    """The result of the checks of a loss, before it is trained with."""

    name: str = ""
    code: str = ""  # a candidate's text without parts that would run on import
    refused: str = ""  # the reason not to train with it; empty if there is none
    problems: list[str] = field(default_factory=list)  # see `limo.training.preference.Examined`
    slope: float | None = None  # d loss / d rho at rho = 0
    probes: list[float] = field(default_factory=list)  # see `limo.discover.checks.probe_loss`
    warmup: float = 0.0  # fraction of the steps of a training that DPO takes first


@dataclass(frozen=True)
class Entry:
    """A loss that was tried, with its results so far."""

    folder: Path
    number: int
    proposal: Proposal
    checks: CheckResult | None  # None before they are made
    scores: list[Scores]  # of the trainings in the search, one for each seed
    confirmed: list[Scores]  # of the trainings measured on fresh data
    failed: str  # why a training did not end with a model

    @property
    def name(self) -> str:
        """The name of the loss, unique in a search."""
        return self.proposal.name

    @property
    def known(self) -> bool:
        """Whether it is one of the losses that the search begins with."""
        return bool(self.proposal.loss)

    @property
    def why_not(self) -> str:
        """Why the loss has no fitness; empty if it has one, or may still get one."""
        return self.proposal.refused or (self.checks.refused if self.checks else "") or self.failed

    @property
    def fitness(self) -> float | None:
        """The mean of the fitness over seeds; None before the first training is measured."""
        return fmean(map(fitness, self.scores)) if self.scores and not self.failed else None

    @property
    def loss(self) -> str | Mapping[str, Any]:
        """The loss in the form of the setting `train.loss`."""
        file = {"_target_": "limo.discover.candidate.from_file", "path": str(self.folder / "candidate.py")}
        return self.proposal.loss or file


def add_proposal(out: Path, number: int, proposal: Proposal) -> Entry:
    """Write a proposal to its folder."""
    folder = out / "candidates" / f"{number:03d}-{proposal.name}"
    keep_value(folder / "proposal.json", asdict(proposal))
    return read_entry(folder)


def add_checks(entry: Entry, result: CheckResult) -> Entry:
    """Write the result of the checks. If a new loss passed them, its text is written first."""
    if result.code and not result.refused:
        with replacing(entry.folder / "candidate.py") as file:
            file.write(result.code)
    keep_value(entry.folder / "checks.json", asdict(result))
    return read_entry(entry.folder)


def read_entry(folder: Path) -> Entry:
    """Read what the folder of a candidate holds."""
    files = [*folder.glob("*.json"), *sorted(folder.glob("*seed-*/score.json"))]
    found = {path.relative_to(folder): json.loads(path.read_text(encoding="utf-8")) for path in files}
    measured = {path.parent.name: value for path, value in found.items() if path.name == "score.json"}
    ended = {name: one["scores"] for name, one in measured.items() if not one["failed"]}
    return Entry(
        folder,
        int(folder.name.partition("-")[0]),
        Proposal(**found[Path("proposal.json")]),
        CheckResult(**found[Path("checks.json")]) if Path("checks.json") in found else None,
        scores=[scores for name, scores in ended.items() if name.startswith("seed-")],
        confirmed=[scores for name, scores in ended.items() if name.startswith("confirm-")],
        failed=next((one["failed"] for one in measured.values() if one["failed"]), ""),
    )


def read_candidates(out: Path) -> list[Entry]:
    """Read all entries of a search, in order."""
    return [read_entry(path.parent) for path in sorted((out / "candidates").glob("*/proposal.json"))]


def keep_value(file: Path, value: Any) -> None:
    """Write JSON to a file that appears once it is complete. NaN and infinity become null."""
    with replacing(file) as out:
        out.write(dump(value))
