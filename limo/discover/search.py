"""Discovers losses for preference training: propose, check, train, score, repeat. DiscoPOP's loop (arXiv 2406.08414).

    python -m limo.discover recipe=discover_demo

Known losses come first (section 3 of the paper). The baseline among them is trained with several seeds, whose spread is
the noise. Then a proposer (`discover/proposers.py`) reads what has been tried and writes the next loss. Its text is
checked in a process without rights and never executed (`discover/checks.py`), trained with by `python -m limo.train`,
and scored by the recipe's measures (`discover/fitness.py`). At the end the best new losses and the baseline are trained
with other seeds, measured on data that the search has not seen, and ranked with intervals (`discover/noise.py`).

Everything is kept in `candidates/` (`discover/archive.py`). After a kill the same command resumes; a larger
`discover.candidates` continues a finished search. Left out: several searches in parallel.
"""

import inspect
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from limo.console import clock, progress, say
from limo.data import Dropped, Example, content_id, write_jsonl
from limo.discover.archive import Entry, Proposal, add_checks, add_proposal, keep_value, read_candidates, read_entry
from limo.discover.candidate import LossRefused
from limo.discover.checks import check_candidate, describe_loss, train_alike
from limo.discover.noise import Gain, Noise, fitness, gains, measure_noise
from limo.errors import UserError
from limo.processes import run_section_apart
from limo.recipe import bind, resolve
from limo.run import claim
from limo.training.preference import load_loss
from limo.training.rows import read_pairs


@dataclass(frozen=True, kw_only=True)
class Split:
    """Numbers of pairs by purpose. Pairs of one prompt stay together."""

    train: int | None  # null takes the remaining pairs
    held_out: int  # every loss is scored on these
    fresh: int  # finalists are scored on these


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """How finalists are confirmed at the end of a search."""

    finalists: int  # the best new losses; the baseline is trained beside them
    seeds: list[int]  # other than those of the search
    fitness: dict[str, Any]  # measures by name


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The section `discover` of a recipe."""

    out: str  # run folder
    train: dict[str, Any]  # the recipe's section `train`, with which each loss is trained
    data: str  # pairs, as in `limo.training.rows.read_pairs`
    split: Split
    known: dict[str, Any]  # losses by name, each as in `train.loss`
    baseline: str  # the known loss to beat
    seeds: list[int]  # of each training
    baseline_seeds: list[int]  # at least two
    warmup: float  # fraction of DPO's steps before a loss whose first steps go the wrong way
    proposer: dict[str, Any]  # a node of `discover/proposers.py`
    candidates: int  # new losses that are trained, after which the search ends
    proposals: int  # at most, refused ones included
    fitness: dict[str, Any]  # measures by name (`discover/fitness.py`), whose mean counts
    confirm: Confirm

    @property
    def beta(self) -> float:
        """The beta of the training, by default TRL's."""
        return float(self.train["args"].get("beta", 0.1))


@dataclass(frozen=True)
class Trial:
    """How losses are trained and measured, either during the search or for the finalists."""

    train: Mapping[str, Any]  # the recipe's section `train`; loss, seed, data, warm-up and folder are replaced
    pairs: Path
    held_out: Path
    measures: Mapping[str, Any]  # nodes by name
    prefix: str  # of a training's folder, before the seed; models of the search are removed once they are measured


def discover(settings: SearchSettings) -> dict[str, Any]:
    """Search for losses, and return the content of `discovered.json`: noise, all fitnesses, finalists with intervals.

    Raises UserError for impossible settings, too few pairs, and a training that fails through no fault of the loss.
    """
    check_search(settings)
    folder, confirm = Path(settings.out), settings.confirm
    same = {key: value for key, value in asdict(settings).items() if key != "out"}
    inputs = [settings.data] if Path(settings.data).expanduser().exists() else []
    with claim(folder, "discover", same, inputs, [folder / "candidates"], ("candidates", "proposals")) as step:
        if step.finished:
            say(f"already searched: {folder / 'discovered.json'} ({clock(step.entry['seconds'])} at the time)")
            return dict(step.entry["results"])
        pairs = split_pairs(folder / "pairs", settings.data, settings.split)
        train, held_out, fresh = (pairs[name] for name in ("train", "held_out", "fresh"))
        search = Trial(settings.train, train, held_out, settings.fitness, "seed-")
        floor = _search(settings, search)
        tried = read_candidates(folder)
        new = [entry for entry in tried if not entry.known and entry.fitness is not None]
        best = sorted(new, key=lambda entry: -(entry.fitness or 0))[: confirm.finalists]
        finalists = [*(entry for entry in tried if entry.name == settings.baseline), *best]
        last = Trial(settings.train, train, fresh, confirm.fitness, "confirm-seed-")
        for entry in finalists:
            train_and_score(entry, confirm.seeds, last)
        numbers = [entry.number for entry in finalists]
        step.results = summarize_search(folder, settings.baseline, floor, len(settings.seeds), numbers)
        keep_value(folder / "discovered.json", step.results)
        step.outputs = [folder / "discovered.json"]
    print_search(step.results)
    return step.results


def check_search(settings: SearchSettings) -> None:
    """Raise UserError for mistakes that can be found before anything is done."""
    confirm = settings.confirm
    if settings.baseline not in settings.known:
        raise UserError(f"discover.baseline={settings.baseline} is not in discover.known")
    if len(settings.baseline_seeds) < 2:
        raise UserError("discover.baseline_seeds needs at least two seeds, to measure the noise")
    if both := {*settings.seeds, *settings.baseline_seeds} & {*confirm.seeds}:
        raise UserError(f"discover.confirm.seeds must differ from those of the search: {sorted(both)[0]} is in both")
    if not (settings.seeds and confirm.seeds and settings.fitness and confirm.fitness):
        raise UserError(
            "discover.seeds, discover.fitness, discover.confirm.seeds and discover.confirm.fitness must not be empty"
        )
    for name, loss in settings.known.items():
        load_loss(loss, f"discover.known.{name}")


def split_pairs(folder: Path, data: str, split: Split) -> dict[str, Path]:
    """The pairs as files train, held_out and fresh, ordered by a hash of the prompt. Raises UserError for too few."""
    sizes = {"held_out": split.held_out, "fresh": split.fresh, "train": split.train}
    files = {name: folder / f"{name}.jsonl" for name in sizes}
    if all(file.exists() for file in files.values()):
        return files
    read = list(read_pairs(data))
    rows = sorted((r for r in read if isinstance(r, Example)), key=lambda r: (content_id(r.prompt), r.id))
    if len({row.id for row in rows}) < len(rows):  # scores are kept by id
        rows = [replace(row, id=f"{row.id}#{number}") for number, row in enumerate(rows, 1)]
    write_jsonl(folder / "dropped.jsonl", [r for r in read if isinstance(r, Dropped)])
    start = 0
    for name, size in sizes.items():
        end = len(rows) if size is None else min(start + size, len(rows))
        while 0 < end < len(rows) and rows[end].prompt == rows[end - 1].prompt:
            end += 1
        if end == start or (size is not None and end - start < size):
            raise UserError(f"{data} has {len(rows)} pairs, too few for discover.split: none are left for {name}")
        write_jsonl(files[name], rows[start:end])
        start = end
    return files


def _search(settings: SearchSettings, trial: Trial) -> Noise:
    """Try the known losses, then proposals until there are enough; return the noise of the baseline.

    What an earlier start has done is not repeated.
    """
    folder, known = Path(settings.out), list(settings.known.items())
    proposer = bind(settings.proposer, "discover.proposer")()
    with progress("losses", len(known) + settings.candidates, "trial") as advance:

        def attempt(number: int) -> None:
            entry = _check(settings, read_candidates(folder)[:number])
            if not entry.why_not:
                more = settings.baseline_seeds if entry.name == settings.baseline else []
                entry = train_and_score(entry, sorted({*settings.seeds, *more}), trial)
            if entry.fitness is not None:
                advance(1, f"{entry.name}: {entry.fitness:.4f}")

        for number, (name, loss) in enumerate(known, 1):
            if number > len(read_candidates(folder)):
                path = loss if isinstance(loss, str) else str(loss["_target_"])
                source = inspect.getsource(inspect.unwrap(resolve(path, f"discover.known.{name}")))
                add_proposal(folder, number, Proposal(name, loss, source, "known"))
            attempt(number)
        floor = _measure_baseline(settings, read_candidates(folder))
        while True:
            number, tried = number + 1, read_candidates(folder)
            if number > len(tried):
                new = sum(not entry.known and entry.fitness is not None for entry in tried)
                if new >= settings.candidates or number - len(known) > settings.proposals:
                    return floor
                proposal = proposer.propose(number, tried, floor)
                if proposal.name in {entry.name for entry in tried}:
                    proposal = replace(proposal, name=f"{proposal.name}_{number}")
                add_proposal(folder, number, proposal)
            attempt(number)


def _measure_baseline(settings: SearchSettings, tried: Sequence[Entry]) -> Noise:
    (baseline,) = (entry for entry in tried if entry.name == settings.baseline)
    if baseline.failed:
        raise UserError(f"the baseline {baseline.name} cannot be trained: {baseline.failed}")
    measures = baseline.scores[0]
    step = max(1 / len(items) for items in measures.values()) / len(measures)
    floor = measure_noise([fitness(scores) for scores in baseline.scores], step)
    say(f"noise: {baseline.name} with {floor.n} seeds has {floor.mean:.4f}, standard deviation {floor.sd:.4f}")
    return floor


def _check(settings: SearchSettings, tried: Sequence[Entry]) -> Entry:
    """Check the last loss of `tried`. A new loss that trains in the same way as an earlier one is refused."""
    *earlier, entry = tried
    if entry.checks or entry.proposal.refused:
        return entry
    if entry.known:
        result = describe_loss(load_loss(entry.loss, f"discover.known.{entry.name}"), settings.beta, entry.name)
    else:
        result = check_candidate(entry.proposal.code, settings.beta)
        for other in earlier:
            if not result.refused and other.checks and train_alike(other.checks.probes, result.probes):
                result = replace(result, refused=f"it differs from {other.name} by a constant or a factor only")
        if result.refused:
            say(f"{entry.name}: {result.refused}")
    return add_checks(entry, replace(result, warmup=settings.warmup if result.problems else 0.0))


def train_and_score(entry: Entry, seeds: Sequence[int], trial: Trial) -> Entry:
    """Train a loss with each seed and measure it, except for seeds already done. Stops at the first failed training."""
    for seed in seeds:
        folder = entry.folder / f"{trial.prefix}{seed}"
        if not (folder / "score.json").exists():
            keep_value(folder / "score.json", _score(entry, seed, folder, trial))
            if trial.prefix != "confirm-seed-":
                for name in ("model", "adapter", "checkpoints"):
                    shutil.rmtree(folder / name, ignore_errors=True)
        if read_entry(entry.folder).failed:
            break
    return read_entry(entry.folder)


def _score(entry: Entry, seed: int, folder: Path, trial: Trial) -> dict[str, Any]:
    start = time.monotonic()
    say(f"== {folder}")
    assert entry.checks, f"{entry.name} is trained before it is checked"
    section = {**trial.train, "out": str(folder), "loss": entry.loss, "seed": seed, "warmup": entry.checks.warmup}
    section |= {"data": str(trial.pairs), "eval_data": str(trial.held_out)}
    failed = run_section_apart("limo.train", "train", section, folder, refused=LossRefused.code)
    scores: dict[str, Any] = {}
    if not failed:
        try:
            scores = {name: bind(node, name)(folder, trial.held_out) for name, node in trial.measures.items()}
        except LossRefused as refused:
            failed = str(refused)
    return {"scores": scores, "failed": failed, "seconds": round(time.monotonic() - start, 1)}


def summarize_search(folder: Path, baseline: str, floor: Noise, seeds: int, finalists: Sequence[int]) -> dict[str, Any]:
    """The content of `discovered.json`; `seeds` trainings of a loss in the search, `finalists` with the baseline."""
    tried, half = read_candidates(folder), floor.half(seeds)
    last = {entry.name: entry.confirmed for entry in tried if entry.number in finalists and entry.confirmed}
    repeated = [[fitness(scores) for scores in entry.scores] for entry in tried]
    ranked = gains(last, baseline, repeated) if baseline in last else []
    scored = []
    for e in tried:
        if e.fitness is not None:
            warmup, above = e.checks.warmup if e.checks else 0.0, e.fitness > floor.mean + half
            one = {"number": e.number, "name": e.name, "known": e.known, "fitness": e.fitness}
            scored.append({**one, "above_noise": above, "warmup": warmup})
    return {
        "baseline": baseline,
        "noise": {**asdict(floor), "half": half},
        "tried": scored,
        "refused": [{"number": e.number, "name": e.name, "why": e.why_not} for e in tried if e.why_not],
        "baseline_confirmed": fmean(fitness(s) for s in last[baseline]) if baseline in last else None,
        "confirmed": [{**asdict(gain), "beats": gain.beats} for gain in ranked],
        "verdict": write_verdict(ranked, baseline),
    }


def write_verdict(ranked: Sequence[Gain], baseline: str) -> str:
    """One sentence that names the finalists that are better than the baseline."""
    if not ranked:
        return f"No new loss was trained to its end: there is nothing to compare with {baseline}."
    better = [gain.name for gain in ranked if gain.beats]
    beat = f"{', '.join(better) or 'None'} of {len(ranked)} finalists {'beat' if len(better) > 1 else 'beats'}"
    return f"{beat} {baseline} by more than noise on fresh data."


def print_search(found: Mapping[str, Any]) -> None:
    """Print each loss with its difference to the baseline, then the finalists and the verdict."""
    half, mean, baseline = found["noise"]["half"], found["noise"]["mean"], found["baseline"]
    lines = [f"losses in the order of the search; differences to {baseline} below {half:.4f} mean nothing"]
    for one in found["tried"]:
        about = "known" if one["known"] else "new"
        about += ", after a warm-up" if one["warmup"] else ""
        lines.append(f"{one['number']:4} {one['name']:24} {one['fitness']:.4f} {one['fitness'] - mean:+.4f}  {about}")
    lines += [f"{one['number']:4} {one['name']:24} refused: {one['why']}" for one in found["refused"]]
    for gain in found["confirmed"]:
        interval = f"95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}"
        lines.append(
            f"fresh data: {gain['name']} {gain['mean']:.4f}, {gain['difference']:+.4f} to {baseline}, {interval}"
        )
    print("\n".join([*lines, found["verdict"]]))  # noqa: T201
