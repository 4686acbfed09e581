"""A loss tried: trained with each seed by the command that a person would type, and measured."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.allowed import Refused
from limo.archive import Entry, entry, keep
from limo.processes import override, run_to_end
from limo.progress import say
from limo.recipe import bind


@dataclass(frozen=True)
class Trial:
    """How losses are trained and measured: in the search, or at the end."""

    typed: Sequence[str]  # arguments of the command line, which every training gets
    train: Path
    held_out: Path
    measures: Mapping[str, Any]
    prefix: str  # of a training's folder, before the seed
    keep_models: bool


def trained(one: Entry, seeds: Sequence[int], trial: Trial) -> Entry:
    """Train a loss with each seed and measure it, where that has not been done. Stops at the first that fails.

    Raises UserError for a failure that is not the loss's, and Interrupted where a training was stopped.
    """
    for seed in seeds:
        folder = one.folder / f"{trial.prefix}{seed}"
        if not (folder / "score.json").exists():
            keep(folder / "score.json", _scored(one, seed, folder, trial))
            if not trial.keep_models:
                for name in ("model", "adapter", "checkpoints"):
                    shutil.rmtree(folder / name, ignore_errors=True)
        if entry(one.folder).failed:
            break
    return entry(one.folder)


def _scored(one: Entry, seed: int, folder: Path, trial: Trial) -> dict[str, Any]:
    """Train once and measure: scores, or why there are none."""
    start = time.monotonic()
    say(f"== {folder}")
    own = {
        "out": str(folder),
        "+train.loss": one.loss,
        "train.seed": seed,
        "train.data": str(trial.train),
        "train.eval_data": str(trial.held_out),
        "train.warmup": one.report["warmup"],
    }
    # Without the recipe's own loss first, a node would be merged into it
    call = [*trial.typed, "~train.loss", *(override(key, value) for key, value in own.items())]
    failed = run_to_end("limo.train", call, folder, refused=Refused.code)
    scores: dict[str, Any] = {}
    if not failed:
        try:
            scores = {n: bind(node, n)(folder, trial.typed) for n, node in trial.measures.items()}
        except Refused as refused:
            failed = str(refused)
    return {"scores": scores, "failed": failed, "seconds": round(time.monotonic() - start, 1)}
