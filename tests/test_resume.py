"""Trainings that are killed, ended or out of disk: they go on with the curve of one that was left alone."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from limo.data import write_jsonl
from limo.model import load_model
from limo.training import fit
from limo.training.checkpoints import MARK, find_fault
from tests import test_preference as pairs
from tests import test_train as chains
from tests.conftest import ROOT, lines
from tests.test_train import ARGS, rows, settings

STEPS = 12


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose evaluation takes most of the time between two checkpoints; `alone` is a run left alone."""
    folder = tmp_path_factory.mktemp("resume")
    write_jsonl(folder / "rows.jsonl", rows(24))
    write_jsonl(folder / "held_out.jsonl", rows(40) * 30)
    args = {**ARGS, "max_steps": STEPS, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    args["per_device_eval_batch_size"] = 8
    more = {"args": args, "pack_tokens": 128, "average": 0.75}  # a resumed training has the same mean of weights
    section = settings(tiny, folder, eval_data=str(folder / "held_out.jsonl"), **more)
    recipe = {"name": "t", "runs": str(folder), "train": {"_target_": "limo.train.sft", **section, "out": "${out}"}}
    (folder / "recipe").mkdir()
    (folder / "recipe" / "t.yaml").write_text("# @package _global_\n" + json.dumps(recipe))
    done = start(folder, "alone")
    assert done.wait(120) == 0, done.stderr and done.stderr.read()
    return folder


def start(folder: Path, name: str, *more: str, limit: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "limo.train", "--config-dir", str(folder), "recipe=t", f"name={name}", *more]
    before: Callable[[], None] | None = None
    if limit:
        before = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        preexec_fn=before,
        start_new_session=True,
    )


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def whole(run: Path) -> list[int]:
    found = [p for p in (run / "checkpoints").glob("checkpoint-*") if find_fault(p) is None]
    return sorted(int(p.name.partition("-")[2]) for p in found)


def broken(run: Path) -> list[Path]:
    return [p for p in (run / "checkpoints").glob("checkpoint-*") if not (p / MARK).exists()]


def same(run: Path, other: Path, loss: float = 0.0) -> None:
    def curve(folder: Path) -> list[tuple[float, ...]]:
        return [
            tuple(e[k] for k in ("loss", "grad_norm", "learning_rate", "eval_loss") if k in e)
            for e in lines(folder / "train_log.jsonl")
        ]

    assert len(curve(run)) == STEPS + STEPS // 2
    for one, two in zip(curve(run), curve(other), strict=True):
        assert one == pytest.approx(two, rel=loss, abs=0)
    weights = [load_model(r / "model", "float32").state_dict() for r in (run, other)]
    assert all((weights[0][k] - weights[1][k]).abs().max() <= loss for k in weights[0])


@pytest.mark.slow
def test_killed_in_a_step_in_a_save_and_in_an_evaluation(folder: Path) -> None:
    run = folder / "killed"
    process = start(folder, "killed")
    until(lambda: 2 in whole(run), process)  # the next step is being done
    kill(process)
    seen = whole(run)
    process = start(folder, "killed")
    until(lambda: broken(run), process)  # a checkpoint is being written
    kill(process)
    assert broken(run), "killed while it wrote"
    assert whole(run)[: len(seen)] == seen, "what was whole before still is"
    last = whole(run)[-1]
    process = start(folder, "killed")
    until(lambda: whole(run)[-1] > last, process)
    evaluation = next(e for e in lines(folder / "alone" / "train_log.jsonl") if "eval_runtime" in e)["eval_runtime"]
    steps = 2 * 0.05
    assert evaluation > 3 * steps, "most of the time between two checkpoints is evaluation"
    time.sleep(steps + evaluation / 3)
    kill(process)
    assert not broken(run)
    process = start(folder, "killed")
    assert process.wait(120) == 0
    assert process.stderr and "resuming from" in process.stderr.read()
    same(run, folder / "alone")


@pytest.mark.slow
def test_sigterm_saves_and_a_full_disk_leaves_the_last_checkpoint(folder: Path) -> None:
    run = folder / "ended"
    process = start(folder, "ended", "+train.devices=2")
    until(lambda: 2 in whole(run), process)
    process.terminate()  # the launcher, as Slurm would; it tells the ranks
    assert process.wait(120) == 143
    said = process.stderr.read() if process.stderr else ""
    assert "error: stopped by SIGTERM after step" in said and "Traceback" not in said, said
    saved = whole(run)
    assert saved[-1] < STEPS and not (run / "model").exists()
    process = start(folder, "ended", "+train.devices=1", limit=700_000)  # model.safetensors fits, optimizer.pt does not
    assert process.wait(120) == 2
    said = process.stderr.read() if process.stderr else ""
    assert said.count("error:") == 1 and "no space left on the disk" in said and "Traceback" not in said, said
    assert whole(run) == saved and broken(run)
    process = start(folder, "ended", "+train.devices=1")  # one rank goes on from what two have written
    assert process.wait(120) == 0
    same(run, folder / "alone", loss=1e-4)


class Killed(BaseException):
    """What a kill at an event of the training looks like to the files."""


class Killer(TrainerCallback):  # type: ignore[misc]
    """Ends the training at the first such event from a step on; before a checkpoint is marked as whole."""

    def __init__(self, event: str, step: int) -> None:
        setattr(self, event, self.kill)
        self.step = step

    def kill(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self.step:
            raise Killed


EVENTS = ("on_step_begin", "on_substep_end", "on_step_end", "on_log", "on_save", "on_epoch_end")
KINDS: dict[str, dict[str, Any]] = {
    "accuracy": {"until_accuracy": 0.75, "pack_tokens": 80, "args": {"num_train_epochs": 60, "learning_rate": 1e-2}},
    "padded": {"until_accuracy": 0.75, "args": {"num_train_epochs": 60, "learning_rate": 1e-2}},
    "chains": {"pack_tokens": 80, "average": 0.5, "args": {"num_train_epochs": 3}},
    "weights": {"weighting": "rows", "args": {"num_train_epochs": 3}},
    "adapter": {"lora": {"r": 4, "lora_dropout": 0.1}, "args": {"num_train_epochs": 3}},
    "pairs": {"args": {"num_train_epochs": 3}},
}
TIMES = ("runtime", "per_second")  # what a log says of the machine


def logged(folder: Path) -> list[dict[str, Any]]:
    found = lines(folder / "run" / "train_log.jsonl")
    return [{k: v for k, v in entry.items() if not k.endswith(TIMES)} for entry in found]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "accuracy" else [pytest.mark.slow]) for kind in KINDS]
)
def test_killed_at_any_step_a_training_has_the_same_log_end_and_weights(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs every third step, saves every second, so most checkpoints stand between two logs."""
    steps = {"logging_steps": 3, "save_steps": 2, "save_total_limit": 2}
    whose: Any = pairs if kind == "pairs" else chains
    changed = {**KINDS[kind], "args": {**whose.ARGS, **steps, **KINDS[kind]["args"]}}

    def train(folder: Path) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        if kind == "pairs":
            return pairs.prefer(**pairs.settings(tiny, folder, **changed))
        return chains.train(tiny, folder, **changed)

    whole = train(tmp_path / "whole")
    draw, add_callbacks = random.Random(kind), fit.add_callbacks
    killed, step = 0, 1
    while step <= whole["steps"]:
        killer = Killer(draw.choice(EVENTS), step)

        def with_killer(trainer: Any, *rest: Any, killer: Killer = killer) -> Any:
            trainer.add_callback(killer)
            return add_callbacks(trainer, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(fit, "add_callbacks", with_killer)
            try:
                train(tmp_path / "killed")
                break
            except Killed:
                killed += 1
        step += draw.choice((1, 1, 2, max(1, whole["steps"] // 6)))
    again = train(tmp_path / "killed")
    assert killed >= 2 and logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert (again["steps"], again["last_loss"]) == (whole["steps"], whole["last_loss"])
    models = [next((tmp_path / run / "run" / "model").glob("*.safetensors")) for run in ("whole", "killed")]
    assert models[0].read_bytes() == models[1].read_bytes()
    if "until_accuracy" in changed:
        right = [entry["mean_token_accuracy"] for entry in logged(tmp_path / "whole")]
        assert right[-1] >= 0.75 > max(right[:-1]) and whole["steps"] < 120
