"""Discover losses for preference training: propose, check, train, score, and tell the proposer. DiscoPOP's loop.

    python -m limo.discover recipe=discover_demo

Known losses come first (arXiv 2406.08414, section 3). The baseline among them is trained with several seeds: how far
its scores lie apart is the noise, below which no difference means anything. Then a proposer (`limo/proposers.py`) is
shown what has been tried, and writes the next loss; its text is read, never executed, and looked at in a process
without rights (`limo/sandbox.py`); it is trained by the command that a person would type, `python -m limo.train ...
train.loss=...`, and scored by the recipe's measures (`limo/fitness.py`). At the end the best new losses and the
baseline are trained again with other seeds, measured on data that the search has not seen, and ranked with intervals
(`limo/noise.py`).

All is kept in `candidates/` (`limo/archive.py`). Killed at any point, the same command goes on; a larger
`discover.candidates` goes on from a search that has ended. Left out: several searches side by side.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from limo.archive import Entry, Proposal, begin, entries, entry, keep, write_archive
from limo.command import command
from limo.data import Dropped, Example, content_id, write_jsonl
from limo.discovered import concluded, show
from limo.errors import UserError
from limo.lossplot import Look, look_at, resolved
from limo.manifest import claim
from limo.noise import Noise, fitness, noise
from limo.pairs import read_pairs
from limo.progress import clock, progress, say
from limo.recipe import bind, files_in, resolve
from limo.sandbox import Report, checked
from limo.trial import Trial, trained

OURS = ("out", "train.loss", "train.seed", "train.data", "train.eval_data", "train.warmup", "train.look")
DRAWN = 121  # points of a curve that is kept


@dataclass(frozen=True)
class Split:
    """How many pairs serve for what; pairs of one prompt stay together."""

    train: int | None  # null takes all that are left
    held_out: int  # on which every loss is scored
    fresh: int  # on which the finalists are


@dataclass(frozen=True)
class Confirm:
    """How finalists are confirmed."""

    finalists: int  # the best new losses; the baseline is trained beside them
    seeds: list[int]  # other than those of the search
    fitness: dict[str, Any]  # measures by name


def discover(
    *,
    out: str,
    train: dict[str, Any],
    data: str,
    split: Split,
    known: dict[str, Any],
    baseline: str,
    seeds: list[int],
    baseline_seeds: list[int],
    warmup: float,
    proposer: dict[str, Any],
    candidates: int,
    proposals: int,
    check_seconds: float,
    fitness: dict[str, Any],
    confirm: Confirm,
    keep_models: bool,
) -> dict[str, Any]:
    """Search for losses, and return what `discovered.json` keeps: the noise, all fitnesses, the finalists' intervals.

    Args: `train` is the recipe's section, with which each loss is trained; `data` pairs as `limo.pairs.read_pairs`
    takes them, cut by `split`; `known` losses by name, as `train.loss` takes them, `baseline` the one to beat; `seeds`
    of each training, `baseline_seeds` at least two; `warmup` the share of DPO's steps before a loss that begins the
    wrong way; `proposer` a node of `limo/proposers.py`; the search ends with so many new `candidates` trained, or
    `proposals` made; `check_seconds` of processor time to look at one; `fitness` measures by name (`limo/fitness.py`),
    whose mean counts; `keep_models` of the search: they are removed once they are measured, the finalists' are kept.

    Raises UserError for settings that cannot be, for too few pairs, and for a training that fails for a reason that is
    not the loss's.
    """
    settings = {k: asdict(v) if isinstance(v, Split | Confirm) else v for k, v in locals().items() if k != "out"}
    _check(settings)
    folder = Path(out)
    for key in ("candidates", "proposals", "keep_models"):  # a search may go on with others
        del settings[key]
    if _new(entries(folder)) < candidates:
        (folder / "discovered.json").unlink(missing_ok=True)
    begun = [folder / "candidates"]
    with claim(folder, "discover", settings, inputs=files_in({"data": data}), begun=begun) as step:
        if step.finished:
            say(f"already searched: {folder / 'discovered.json'} ({clock(step.entry['seconds'])} at the time)")
            return dict(step.entry["results"])
        typed = [a for a in sys.argv[1:] if a.partition("=")[0] not in OURS]
        files = _cut(folder / "pairs", data, split)
        search = Trial(typed, files["train"], files["held_out"], fitness, "seed-", keep_models)
        last = Trial(typed, files["train"], files["fresh"], confirm.fitness, "confirm-seed-", True)
        _known(folder, known, train, warmup)
        for one in entries(folder):
            if one.known:
                trained(one, sorted({*seeds, *(baseline_seeds if one.name == baseline else [])}), search)
        floor = _floor(entries(folder), baseline)
        say(f"noise: {baseline} with {floor.n} seeds has {floor.mean:.4f}, standard deviation {floor.sd:.4f}")
        source = bind(proposer, "discover.proposer")()
        with progress("new losses", candidates, "candidate") as advance:
            for one in _searched(folder, source, floor, train, warmup, check_seconds, candidates, proposals):
                if not one.why_not:
                    one = trained(one, seeds, search)
                if not one.why_not:
                    advance(1, f"{one.name}: {one.fitness:.4f}")
        finalists = _finalists(entries(folder), baseline, confirm.finalists)
        for one in finalists:
            trained(one, confirm.seeds, last)
        step.results = concluded(folder, baseline, floor, len(seeds), [one.number for one in finalists])
        keep(folder / "discovered.json", step.results)
        step.outputs = [folder / "discovered.json", folder / "archive.jsonl"]
    show(step.results)
    return step.results


def _check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for what can be known to be wrong before anything is done."""
    if settings["baseline"] not in settings["known"]:
        raise UserError(f"discover.baseline={settings['baseline']} is none of discover.known")
    if len(settings["baseline_seeds"]) < 2 or not settings["seeds"]:
        raise UserError("discover.baseline_seeds needs two seeds at least, to know the noise, and discover.seeds one")
    if both := {*settings["seeds"], *settings["baseline_seeds"]} & {*settings["confirm"]["seeds"]}:
        raise UserError(f"discover.confirm.seeds must be others than those of the search: {sorted(both)[0]} is in both")
    if not settings["confirm"]["seeds"] or not settings["fitness"] or not settings["confirm"]["fitness"]:
        raise UserError("discover.confirm.seeds, discover.fitness and discover.confirm.fitness must not be empty")
    for where, nodes in (("fitness", settings["fitness"]), ("confirm.fitness", settings["confirm"]["fitness"])):
        for name, node in nodes.items():
            bind(node, f"discover.{where}.{name}")
    for name, loss in settings["known"].items():
        resolved(loss, f"discover.known.{name}")
    bind(settings["proposer"], "discover.proposer")


def _cut(folder: Path, data: str, split: Split) -> dict[str, Path]:
    """The pairs as three files, in an order that hangs on their prompts alone. Raises UserError for too few of them."""
    sizes = {"held_out": split.held_out, "fresh": split.fresh, "train": split.train}
    files = {name: folder / f"{name}.jsonl" for name in sizes}
    if all(file.exists() for file in files.values()):
        return files
    read = list(read_pairs(data))
    rows = sorted((r for r in read if isinstance(r, Example)), key=lambda r: (content_id(r.prompt), r.id))
    if len({row.id for row in rows}) < len(rows):  # scores are kept by id
        rows = [replace(row, id=f"{row.id}#{number}") for number, row in enumerate(rows, 1)]
    write_jsonl(folder / "dropped.jsonl", [r for r in read if isinstance(r, Dropped)])
    at = 0
    for name, size in sizes.items():
        end = len(rows) if size is None else min(at + size, len(rows))
        while 0 < end < len(rows) and rows[end].prompt == rows[end - 1].prompt and size is not None:
            end += 1
        if end == at or (size is not None and end - at < size):
            raise UserError(f"{data} has {len(rows)} pairs, too few for discover.split: none are left for {name}")
        write_jsonl(files[name], rows[at:end])
        at = end
    return files


def _known(folder: Path, known: Mapping[str, Any], train: Mapping[str, Any], warmup: float) -> None:
    """The burn-in: known losses as proposals, each looked at."""
    there = {one.number for one in entries(folder)}
    for number, (name, loss) in enumerate(known.items(), 1):
        if number not in there:
            path = loss if isinstance(loss, str) else str(loss["_target_"])
            source = inspect.getsource(inspect.unwrap(resolve(path, f"discover.known.{name}")))
            begin(folder, number, Proposal(name, loss, source, "known"))
    for one in entries(folder):
        if one.known and not one.report:
            look = look_at(resolved(one.loss, f"discover.known.{one.name}"), _beta(train))
            _keep_report(one.folder, Report(one.name, "", look.wrong, look.at_start), look, warmup)


def _searched(
    folder: Path,
    source: Any,
    floor: Noise,
    train: Mapping[str, Any],
    warmup: float,
    seconds: float,
    candidates: int,
    proposals: int,
) -> Iterator[Entry]:
    """Each new loss once it has been looked at, those of an earlier start first; whoever takes it trains with it."""
    first = 1 + sum(one.known for one in entries(folder))
    for number in count(first):
        tried = entries(folder)
        if number > len(tried):
            if _new(tried) >= candidates or number - first >= proposals:
                return
            proposal = source.propose(number, tried, floor)
            if proposal.name in {one.name for one in tried}:
                proposal = replace(proposal, name=f"{proposal.name}_{number}")
            begin(folder, number, proposal)
            tried = entries(folder)
        one = tried[number - 1]
        if not one.report and not one.proposal.refused:
            _look(one, _beta(train), warmup, seconds)
        yield entry(one.folder)
        write_archive(folder, entries(folder))


def _look(one: Entry, beta: float, warmup: float, seconds: float) -> None:
    """Check a new loss in a process without rights, and draw its curve."""
    report, look = checked(one.proposal.code, beta, seconds), None
    if not report.refused:
        try:
            look = look_at(resolved(one.loss, one.name), beta)
        except UserError as error:
            report = Report(one.name, str(error))
    if report.refused:
        say(f"{one.name}: {report.refused}")
    _keep_report(one.folder, report, look, warmup)


def _keep_report(folder: Path, report: Report, look: Look | None, warmup: float) -> None:
    """What was found, the share of a training with it that DPO takes first, and its curve."""
    curve = {}
    if look:
        every = max(1, len(look.rho) // DRAWN)
        curve = {key: getattr(look, key)[::every] for key in ("rho", "value", "slope")}
    lead = warmup if look and look.wrong else 0.0
    keep(folder / "report.json", {**asdict(report), "warmup": lead, "curve": curve})


def _beta(train: Mapping[str, Any]) -> float:
    return float(train["args"].get("beta", 0.1))


def _new(tried: Sequence[Entry]) -> int:
    """How many new losses have a fitness."""
    return sum(not one.known and one.fitness is not None for one in tried)


def _floor(tried: Sequence[Entry], baseline: str) -> Noise:
    one = next(one for one in tried if one.name == baseline)
    if one.failed:
        raise UserError(f"the baseline {baseline} cannot be trained: {one.failed}")
    measures = next(iter(one.scores.values()))
    step = max(1 / len(items) for items in measures.values()) / len(measures)
    return noise([fitness(scores) for scores in one.scores.values()], step)


def _finalists(tried: Sequence[Entry], baseline: str, n: int) -> list[Entry]:
    """The baseline and the best new losses of the search."""
    new = [one for one in tried if not one.known and one.fitness is not None]
    best = sorted(new, key=lambda one: -(one.fitness or 0))[:n]
    return [next(one for one in tried if one.name == baseline), *best]


if __name__ == "__main__":
    command("discover", "limo.discover", "Search for losses of preference training.")
