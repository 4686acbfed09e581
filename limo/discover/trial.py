"""A loss tried: trained with each seed by `python -m limo.train`, and measured."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.discover.archive import Entry, keep, read_entry
from limo.discover.candidate import Refused
from limo.processes import run_section_apart
from limo.progress import say
from limo.recipe import bind


@dataclass(frozen=True)
class Trial:
    """How losses are trained and measured: in the search, or at its end."""

    train: Mapping[str, Any]  # the recipe's section, in which loss, seed, data, warm-up and folder are replaced
    pairs: Path
    held_out: Path
    measures: Mapping[str, Any]  # nodes by name
    prefix: str  # of a training's folder, before the seed
    keep_models: bool


def train_and_score(entry: Entry, seeds: Sequence[int], trial: Trial) -> Entry:
    """Train a loss with each seed and measure it, where that has not been done. Stops at the first that fails.

    Raises UserError for a failure that is not the loss's, and Interrupted where a training was stopped.
    """
    for seed in seeds:
        folder = entry.folder / f"{trial.prefix}{seed}"
        if not (folder / "score.json").exists():
            keep(folder / "score.json", _score(entry, seed, folder, trial))
            if not trial.keep_models:
                for name in ("model", "adapter", "checkpoints"):
                    shutil.rmtree(folder / name, ignore_errors=True)
        if read_entry(entry.folder).failed:
            break
    return read_entry(entry.folder)


def _score(entry: Entry, seed: int, folder: Path, trial: Trial) -> dict[str, Any]:
    """Train once and measure: scores, or why there are none."""
    start = time.monotonic()
    say(f"== {folder}")
    assert entry.checks, f"{entry.name} is trained before it is checked"
    section = {**trial.train, "out": str(folder), "loss": entry.loss, "seed": seed, "warmup": entry.checks.warmup}
    section |= {"data": str(trial.pairs), "eval_data": str(trial.held_out)}
    failed = run_section_apart("limo.train", "train", section, folder, refused=Refused.code)
    scores: dict[str, Any] = {}
    if not failed:
        try:
            scores = {name: bind(node, name)(folder, trial.held_out) for name, node in trial.measures.items()}
        except Refused as refused:
            failed = str(refused)
    return {"scores": scores, "failed": failed, "seconds": round(time.monotonic() - start, 1)}
