"""Scripts for Slurm: what stands in them, and that they run, with a `srun` of ours that starts real processes here."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from limo.checkpoints import MARK
from limo.data import write_jsonl
from limo.plan import estimated
from limo.recipe import compose
from tests.conftest import ROOT, lines
from tests.test_kill import finish, started, write_recipe
from tests.test_train import rows

Command = Callable[..., "subprocess.CompletedProcess[str]"]

# As Slurm does: a process for each task, its numbers in the environment; SIGTERM goes to all; the highest code counts
SRUN = """#!{python}
import os, signal, subprocess, sys
assert sys.argv[1] == "--kill-on-bad-exit=1", sys.argv
count = int(os.environ["SLURM_NTASKS"])
command = [sys.executable if word == "python" else word for word in sys.argv[2:]]
slurm = {{"SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost,other"}}
tasks = [
    subprocess.Popen(command, env={{**os.environ, **slurm, "SLURM_PROCID": str(i), "SLURM_NODEID": str(i)}})
    for i in range(count)
]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() if task.wait() >= 0 else 128 - task.wait() for task in tasks))
"""


def options(script: str) -> dict[str, str]:
    """The options of a script, after the shell has found nothing wrong with it."""
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE)
    assert len(found) == script.count("#SBATCH")
    head = script.partition("set -euo pipefail")[0]
    assert head.count("#SBATCH") == len(found), "Slurm reads none after the first command"
    return dict(found)


def made(run: Command, *arguments: str) -> str:
    done = run("limo.slurm", *arguments)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def refused(run: Command, *arguments: str) -> str:
    done = run("limo.slurm", *arguments)
    assert done.returncode == 2 and not done.stdout and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_training_over_nodes(run: Command, tiny: Path, tmp_path: Path) -> None:
    plan = ["train_plan.rows=800", "train_plan.mean_tokens=400"]
    given = ["recipe=demo", f"runs={tmp_path}", f"student={tiny}", *plan, "system=it is"]
    script = made(
        run, *given, "nodes=4", "gpus=8", "sbatch=--partition=gpu --account=mine", "setup=source my/bin/activate"
    )
    found = options(script)
    assert found == {
        "job-name": "demo-train",
        "nodes": "4",
        "ntasks-per-node": "1",
        "gpus-per-node": "8",
        "cpus-per-task": "64",
        "time": "00:31:00",
        "output": f"{tmp_path}/demo/slurm-train-%j.log",
        "signal": "TERM@900",
        "requeue": "",
        "open-mode": "append",
        "partition": "gpu",
        "account": "mine",
    }
    assert (tmp_path / "demo").is_dir(), "Slurm does not make the folder of its logs"
    assert "\nsource my/bin/activate\n" in script
    command = next(line for line in script.splitlines() if line.startswith("srun "))
    assert command.startswith("srun --kill-on-bad-exit=1 python -m limo.train recipe=demo runs=")
    assert "nodes=" not in command and "'system=it is'" in command
    assert made(run, *given, "hours=12.5").count("#SBATCH --time=12:30:00") == 1


def test_the_hours_are_the_plan_s_with_a_margin(run: Command, tiny: Path, tmp_path: Path) -> None:
    given = [f"student={tiny}", "train_plan.rows=20000000", "train_plan.mean_tokens=400"]
    given += ["train.args.num_train_epochs=300"]
    section = compose("recipe=demo", *given)["train_plan"]
    known = {key: section[key] for key in ("train", "rows", "mean_tokens", "utilisation")}
    (hours,) = [c["hours"] for c in estimated(**known, devices=[2], gpus={"A100-80": 1.0})["costs"]]
    assert hours > 1
    script = made(run, "recipe=demo", f"runs={tmp_path}", *given, "nodes=2", "gpus=1", "gpu=A100-80")
    at, minutes = map(int, options(script)["time"].split(":")[:2])
    assert at + minutes / 60 == pytest.approx(1.5 * hours + 0.5, abs=1 / 60)


def test_an_array_of_workers(run: Command, tmp_path: Path) -> None:
    given = ["recipe=limo", f"runs={tmp_path}", "array=64", "gpus=1", "stage=hard"]
    script = made(run, *given, "hours=48")
    found = options(script)
    assert (found["array"], found["time"], found["signal"]) == ("0-63", "48:00:00", "TERM@900")
    assert found["output"] == f"{tmp_path}/limo/slurm-hard-%A_%a.log" and "requeue" in found
    task = f'python -m curation.attempt recipe=limo runs={tmp_path} "stage=hard" "shard=$SLURM_ARRAY_TASK_ID/64"'
    assert f"srun --kill-on-bad-exit=1 {task} ||" in script
    assert '"shard=any"' in made(run, *given, "shard=any")


def test_what_a_person_gets_wrong_is_one_line(run: Command, tmp_path: Path) -> None:
    given = ["recipe=limo", f"runs={tmp_path}"]
    assert "nodes must be a number from 1, not '0'" in refused(run, *given, "nodes=0")
    assert "hours must be a number above 0.25" in refused(run, *given, "hours=0.1")
    assert "has no stage 'hrad'" in refused(run, *given, "array=4", "stage=hrad")
    assert "array must be a number from 1" in refused(run, *given, "array=0-63")
    said = refused(run, *given, "hours=2", "setup=export WANDB_API_KEY=geheim")
    assert "WANDB_API_KEY looks like a key" in said and "geheim" not in said
    assert "train.args.hub_token looks like a key" in refused(run, *given, "hours=2", "+train.args.hub_token=geheim")
    assert "does not fit on 1 x A100-80" in refused(run, *given, *BIG, "gpus=1", "gpu=A100-80")
    assert "the time is not known" in refused(run, *given, "train.model=nowhere/at-all")


BIG = ["student=$BIG", "train_plan.rows=800", "train_plan.mean_tokens=400"]


@pytest.fixture(autouse=True)
def _big(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config of a model that fits on no single GPU."""
    folder = tmp_path_factory.getbasetemp() / "big"
    folder.mkdir(exist_ok=True)
    sizes = {"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 2, "num_attention_heads": 64}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    BIG[0] = f"student={folder}"


def batch(folder: Path, script: str, **environment: str) -> "subprocess.Popen[str]":
    """Run a script as Slurm's batch step would, with the `srun` and `scontrol` of this test."""
    folder.mkdir(exist_ok=True)
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text(SRUN.format(python=sys.executable))
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\n')
    for name in ("srun", "scontrol"):
        (tools / name).chmod(0o755)
    (folder / "job.sbatch").write_text(script)
    return subprocess.Popen(
        ["bash", str(folder / "job.sbatch")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tools}:{os.environ['PATH']}", **environment},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("scale.md", "engines.md")]
COMMANDS = [
    line
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python -m ") and " hydra/" in line  # tests/test_docs.py binds the others
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_with_a_launcher_fit_their_recipes(run: Command, command: str) -> None:
    """Each is put together as it stands, with its launcher, and stops before it does anything."""
    _, _, module, *arguments = shlex.split(command, comments=True)
    given = [a.replace("0,1,2", "0") for a in arguments if a != "--multirun"]
    done = run(module, *given, "--cfg", "job")
    assert done.returncode == 0 and "/shared/runs" in done.stdout, done.stderr


@pytest.mark.slow
def test_two_nodes_train_together_stop_and_go_on(run: Command, tiny: Path, tmp_path: Path) -> None:
    """Two tasks on this machine, one CPU rank each. Told to stop, they save, and the job is queued again."""
    write_jsonl(tmp_path / "rows.jsonl", rows(64))
    given = [
        "recipe=demo",
        f"runs={tmp_path}",
        f"student={tiny}",
        f"train.data={tmp_path / 'rows.jsonl'}",
        "system=Be brief.",
    ]
    given += [
        "train.args.bf16=false",
        "train.args.logging_steps=1",
        "train.packing=512",
        "train.args.num_train_epochs=12",
    ]
    script = made(run, *given, "nodes=2", "gpus=1", "cpus=1", "hours=1")
    nodes = {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_JOB_ID": "4711", "OMP_NUM_THREADS": "1"}
    job = batch(tmp_path, script, **nodes)
    log = tmp_path / "demo" / "train_log.jsonl"
    while not list((tmp_path / "demo" / "checkpoints").glob(f"checkpoint-*/{MARK}")):
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.05)
    (srun,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(srun), signal.SIGTERM)  # what --signal=TERM@900 does
    _, said = job.communicate(timeout=120)
    assert job.returncode == 143, said
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    assert not log.exists() and not (tmp_path / "demo" / "model").exists()
    again = batch(tmp_path, script, **nodes)
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said
    results = json.loads((tmp_path / "demo" / "manifest.json").read_text())["train"]["results"]
    assert results["devices"] == 2 and (tmp_path / "demo" / "model" / "model.safetensors").exists()
    steps = [line["step"] for line in lines(log) if "loss" in line]
    assert steps == list(range(1, 97)), "no step is missing or done twice in the curve"


@pytest.mark.slow
def test_the_tasks_of_an_array_sample_what_one_process_samples(run: Command, tmp_path: Path) -> None:
    write_recipe(tmp_path, "{_target_: tests.slow_engine.Slow, seconds: 0.0}", 1)
    given = [
        "--config-dir",
        str(tmp_path),
        "recipe=killed",
        f"runs={tmp_path / 'shared'}",
        "stage=hard",
        "array=2",
        "gpus=1",
    ]
    script = made(run, *given)
    options(script)
    tasks = []
    for task in range(2):
        own = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NTASKS": "1", "LIMO_CACHE": str(tmp_path / f"cache{task}")}
        tasks.append(batch(tmp_path / str(task), script, SLOW_LOG=str(tmp_path / "log.txt"), **own))
    for process in tasks:
        finish(process)
    drawn = (tmp_path / "log.txt").read_text().splitlines()
    (tmp_path / "log.txt").unlink()
    finish(started(tmp_path, "whole", "cache_whole"))
    whole = [name for name in (tmp_path / "log.txt").read_text().splitlines() if "/0/" in name]  # the stage's seed
    assert sorted(drawn) == sorted(whole)


@pytest.mark.slow
def test_a_sweep_by_submitit(run: Command, tmp_path: Path) -> None:
    """Hydra's launcher for Slurm, with its executor for one machine: each job is a process that submitit starts."""
    write_recipe(tmp_path, "{_target_: tests.slow_engine.Slow, seconds: 0.0}", 1)
    given = [
        "--multirun",
        "--config-dir",
        str(tmp_path),
        "recipe=killed",
        f"runs={tmp_path}",
        "hydra/launcher=submitit_local",
    ]
    more = {"SLOW_LOG": str(tmp_path / "log.txt"), "LIMO_CACHE": str(tmp_path / "cache")}
    done = run("curation.run", *given, "curate.stages.choose.k=5,6", **more)
    assert done.returncode == 0, done.stderr
    for k in (5, 6):
        assert len(lines(tmp_path / "killed" / "sweep" / f"curate.stages.choose.k={k}" / "curated.jsonl")) == k
    wrong = run("curation.run", *given, "curate.stages.choose.k=7,0", **more)
    assert wrong.returncode == 2 and "the sweep stopped at 'curate.stages.choose.k=0'" in wrong.stderr.splitlines()[-1]
    assert (tmp_path / "killed" / "sweep" / "curate.stages.choose.k=7" / "curated.jsonl").exists()
