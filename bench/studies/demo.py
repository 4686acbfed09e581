"""What the demo's choice is worth, over ten pools of their own: `recipe=demo` with ten seeds, and three more arms.

    python -m bench.studies.demo FOLDER              # hours; resumes; several processes may work on one FOLDER
    python -m bench.studies.demo FOLDER table        # what is finished, with means over the pools and their intervals

A seed makes another pool, other problems to measure on, another choice and another order of training. The first three
pools have two arms more: `checked`, a random chain each of the problems whose steps hold, and `oracle`, of the chains
without a flaw, which only a pool of known truth can tell.

Expected, and written before the first of the ten: chosen above raw by 20 points in the mean and in no pool below 5,
chosen above random by 15 in the mean, oracle within 5 of chosen, checked within 3 of it (likelihood decides
little once the steps are checked).
"""

import fcntl
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from curation.evidence.controls import random_set
from limo.console import Table, print_table, terminal
from limo.data import read_jsonl, write_jsonl
from limo.errors import reported
from limo.processes import override
from limo.run import read_manifest
from limo.sources.known_truth import is_good

POOLS, WITH_ORACLE = 10, 3
ARMS, EXTRA = ("base", "raw", "random", "chosen", "checked", "oracle"), ("checked", "oracle")
CONTRASTS = (("raw", "chosen"), ("random", "chosen"), ("raw", "random"), ("checked", "chosen"), ("random", "oracle"))


def run_pool(folder: Path, seed: int, more: Sequence[str]) -> None:
    """Curate, train and evaluate one pool, with the commands that a user types; `more` are arms beside the usual."""
    control = ["raw", "random", *more]
    name, run = f"pool-{seed}", folder / f"pool-{seed}"
    given = ["recipe=demo", f"seed={seed}", f"name={name}", override("runs", str(folder)), override("control", control)]
    for module in ("curation.run", "limo.train", "eval.run"):
        if module == "limo.train" and more:
            write_arms(run, seed)
        subprocess.run([sys.executable, "-m", module, *given], check=True)


def write_arms(run: Path, seed: int) -> None:
    """The control sets `checked` and `oracle` of a curated run."""
    k = sum(1 for _ in read_jsonl(run / "curated.jsonl"))
    names = ["pool", *read_manifest(run)["curate"]["settings"]["stages"]]

    def left_by(stage: str) -> Path:
        return run / "stages" / f"{names.index(stage):02d}-{stage}.jsonl"

    checked, verified = list(read_jsonl(left_by("true_steps"))), list(read_jsonl(left_by("box")))
    write_jsonl(run / "controls" / "checked.jsonl", random_set(checked, k, seed))
    write_jsonl(run / "controls" / "oracle.jsonl", random_set([row for row in verified if is_good(row)], k, seed))


def measured(folder: Path, seed: int) -> dict[str, float]:
    """The accuracy of each arm of a pool, in %; empty before its evaluation."""
    path = folder / f"pool-{seed}" / "eval" / "summary.json"
    by = json.loads(path.read_text(encoding="utf-8"))["accuracy"] if path.is_file() else {}
    return {arm: 100 * fmean(one["mean"] for one in by[arm].values()) for arm in by}


def table(folder: Path) -> None:
    """Accuracy of each arm by pool, then the contrasts with t intervals over the pools."""
    found = {seed: arms for seed in range(POOLS) if (arms := measured(folder, seed))}
    rows = [(str(seed), *(f"{one[arm]:.1f}" if arm in one else "" for arm in ARMS)) for seed, one in found.items()]
    means = [fmean(values) if (values := [one[arm] for one in found.values() if arm in one]) else None for arm in ARMS]
    rows.append(("mean", *("" if mean is None else f"{mean:.1f}" for mean in means)))
    print_table(Table(("pool", *ARMS), rows, range(1, 7), "accuracy on new problems, %"), terminal(100))
    lines = []
    for before, after in CONTRASTS:
        values = [one[after] - one[before] for one in found.values() if before in one and after in one]
        if len(values) > 1:
            low, high = t_interval(values)
            least = f"{min(values):+.1f} to {max(values):+.1f}"
            lines.append(
                (f"{after} - {before}", f"{fmean(values):+.1f}", f"{low:+.1f} to {high:+.1f}", least, len(values))
            )
    head = ("contrast", "points", "95 % interval over pools", "least to most", "pools")
    print_table(Table(head, lines, range(1, 5)), terminal(100))


def t_interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of Student's t for the mean of independent values."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def main() -> None:
    """The command `python -m bench.studies.demo`."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if "table" not in sys.argv:
        for seed, more in [*((seed, ()) for seed in range(POOLS)), *((seed, EXTRA) for seed in range(WITH_ORACLE))]:
            with (folder / f".pool-{seed}").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # another process has this one
                if not {*ARMS[:3], *more} <= set(measured(folder, seed)):
                    run_pool(folder, seed, more)
    table(folder)


if __name__ == "__main__":
    with reported():
        main()
