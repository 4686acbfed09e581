"""A batch script for Slurm, made from a recipe and printed: nothing is submitted.

    python -m limo.slurm recipe=limo nodes=4 gpus=8 > train.sbatch                  # the training
    python -m limo.slurm recipe=limo array=64 gpus=1 stage=hard > hard.sbatch       # workers that sample a stage
    sbatch train.sbatch

What follows `recipe=` goes into the script as it is. The time is that of `limo.plan`, half as much again and half an
hour; `hours=` says otherwise. Some minutes before it is over, or where the job has to make room, the tasks get SIGTERM:
a training saves a checkpoint, a worker gives its problems back, and the job is queued again to go on. `sbatch=` takes
further options (`sbatch='--partition=gpu --account=mine'`), `setup=` a line of shell that finds Python.

Keys are never written into it: `sbatch` passes the environment on. Left out: modules, containers, and the network's
own settings (NCCL_SOCKET_IFNAME and the like), which differ from cluster to cluster.
"""

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limo.command import command
from limo.errors import UserError
from limo.launch import SAVING
from limo.plan import estimated
from limo.recipe import own

KEYS = {
    **{"nodes": "1", "gpus": "8", "cpus": "8", "gpu": "H100", "hours": "", "array": "", "stage": "", "shard": ""},
    **{"setup": "", "sbatch": ""},
}
MARGIN, START = 1.5, 0.5  # of the planned hours; hours for loading, checkpoints, the first compilation
WARNED = SAVING + 300  # seconds before the end at which tasks are told
RESTARTS = 50  # after which a job that is always told to stop is left alone
SECRET = re.compile(r"(?:^|_)(?:key|token|secret|password)$")
SCRIPT = """#!/usr/bin/env bash
# Made by: {made_by}
{directives}
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:-.}}"
{setup}
code=0
srun --kill-on-bad-exit=1 {command} || code=$?
# Told to stop, and all is saved: the same job goes on where it was
if [ "$code" -eq 143 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    scontrol requeue "{job}"
fi
exit "$code"
"""


def training(section: Mapping[str, Any], settings: Mapping[str, str], typed: Sequence[str]) -> str:
    """The script that trains, with one task a node, each of which starts a rank for each GPU.

    Args: the recipe's section `train_plan`; `settings` as in KEYS; `typed` is what goes to `limo.train`. Raises
    UserError for settings that cannot be, and where the hours are neither given nor known.
    """
    nodes, gpus = _count("nodes", settings), _count("gpus", settings)
    hours = _hours(settings) or MARGIN * _planned(section, nodes * gpus, settings["gpu"]) + START
    out = Path(section["train"]["out"])
    return _script(
        "limo.train",
        typed,
        [],
        settings,
        [
            f"--job-name={out.name}-train",
            f"--nodes={nodes}",
            "--ntasks-per-node=1",
            f"--gpus-per-node={gpus}",
            f"--cpus-per-task={gpus * _count('cpus', settings)}",
            f"--time={_clock(hours)}",
            f"--output={out}/slurm-train-%j.log",
        ],
        job="$SLURM_JOB_ID",
    )


def sampling(section: Mapping[str, Any], settings: Mapping[str, str], typed: Sequence[str]) -> str:
    """The script of an array of workers that sample a stage; each takes its part of the problems.

    Args: the recipe's section `curate`; `settings` as in KEYS, `shard=any` lets all take from one list; `typed` is what
    goes to `curation.attempt`. Raises UserError for settings that cannot be, and for a stage that there is not.
    """
    count, gpus, stage = _count("array", settings), _count("gpus", settings), settings["stage"]
    if stage and stage not in section["stages"]:
        raise UserError(f"stage: the recipe has no stage '{stage}'; there are {', '.join(section['stages'])}")
    if settings["shard"] not in ("", "any"):
        raise UserError(f"shard must be any, or left out for a part each, not '{settings['shard']}'")
    out = Path(section["out"])
    shard = "shard=any" if settings["shard"] else f"shard=$SLURM_ARRAY_TASK_ID/{count}"
    return _script(
        "curation.attempt",
        typed,
        [*([f"stage={stage}"] if stage else []), shard],
        settings,
        [
            f"--job-name={out.name}-{stage or 'sample'}",
            f"--array=0-{count - 1}",
            "--nodes=1",
            "--ntasks=1",
            f"--gpus-per-node={gpus}",
            f"--cpus-per-task={gpus * _count('cpus', settings)}",
            f"--time={_clock(_hours(settings) or 24)}",
            f"--output={out}/slurm-{stage or 'sample'}-%A_%a.log",
        ],
        job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}",
    )


def _script(
    module: str,
    typed: Sequence[str],
    more: Sequence[str],
    settings: Mapping[str, str],
    options: Sequence[str],
    job: str,
) -> str:
    _refuse_keys(typed, settings)
    own_keys = [f"{key}={value}" for key, value in settings.items() if value != KEYS[key]]
    common = [f"--signal=TERM@{WARNED}", "--requeue", "--open-mode=append"]
    given = [*options, *common, *shlex.split(settings["sbatch"])]
    # Of ours the shell fills in the number of an array's task; what was typed stays as it is
    words = [module, *map(shlex.quote, typed), *(f'"{word}"' for word in more)]
    return SCRIPT.format(
        made_by=shlex.join(["python", "-m", "limo.slurm", *typed, *own_keys]).replace("\n", " "),
        directives="\n".join(f"#SBATCH {option}" for option in given),
        setup=settings["setup"],
        command=" ".join(["python -m", *words]),
        restarts=RESTARTS,
        job=job,
    )


def _refuse_keys(typed: Sequence[str], settings: Mapping[str, str]) -> None:
    """Raise UserError for what would put a key into a file that others may read."""
    for argument in (*typed, *settings["setup"].split(), *settings["sbatch"].split()):
        key, _, value = argument.partition("=")
        if value and SECRET.search(key.rpartition(".")[2].lower()):
            raise UserError(f"{key} looks like a key: put it into the environment, which sbatch passes on")


def _planned(section: Mapping[str, Any], devices: int, gpu: str) -> float:
    """Hours of the training on so many GPUs, by the plan."""
    known = {key: value for key, value in section.items() if key not in ("_target_", "devices", "gpus")}
    try:
        found = estimated(**known, devices=[devices], gpus={gpu: 0.0})
    except UserError as error:
        raise UserError(f"the time is not known: {error}. Or say it: hours=12") from None
    if not found["costs"]:
        raise UserError(
            f"by the plan it does not fit on {devices} x {gpu}: python -m limo.plan says what does; or hours=12"
        )
    return float(found["costs"][0]["hours"])


def _count(key: str, settings: Mapping[str, str]) -> int:
    if not settings[key].isdigit() or int(settings[key]) < 1:
        raise UserError(f"{key} must be a number from 1, not '{settings[key]}'")
    return int(settings[key])


def _hours(settings: Mapping[str, str]) -> float | None:
    text = settings["hours"]
    if not text:
        return None
    if not re.fullmatch(r"\d+(?:\.\d+)?", text) or float(text) * 3600 <= WARNED:
        raise UserError(f"hours must be a number above {WARNED / 3600:.2f}, so that a checkpoint fits, not '{text}'")
    return float(text)


def _clock(hours: float) -> str:
    minutes = max(math.ceil(hours * 60), WARNED // 60 + 5)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def main() -> None:
    """The command `python -m limo.slurm`."""
    settings = own(KEYS)
    typed, array = list(sys.argv[1:]), bool(settings["array"])

    def several(section: Mapping[str, Any]) -> int:
        text = (sampling if array else training)(section, settings, typed)
        out = Path(section["out"] if array else section["train"]["out"])
        out.mkdir(parents=True, exist_ok=True)  # Slurm does not make the folder of its logs
        print(text, end="")  # noqa: T201
        return 0

    about = f"{__doc__}\nKeys of its own: {', '.join(KEYS)}."
    command("curate" if array else "train_plan", "limo.slurm", about, several)


if __name__ == "__main__":
    main()
