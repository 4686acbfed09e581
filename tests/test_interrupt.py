"""Ctrl-C in any second of any command: one line, and nothing of a library's insides."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from limo.cli import COMMANDS
from limo.data import write_jsonl
from limo.errors import _was_interrupted
from limo.training.callbacks import Checkpoints
from tests.conftest import ROOT, example
from tests.test_cli import LIMO
from tests.test_report import evaluation

ARGUMENTS = {
    "view": ["runs/first", "port=0", "open=false"],
    "compare": ["runs/first", "runs/second"],
    "new": ["pool.jsonl"],
    "grade": ["pool.jsonl"],
    "why": ["s/1", "runs/first"],
    "ledgers": [],
}
SECONDS = (0.1, 2.0)  # of processor time, whatever else the machine does
IDLE = 4.0  # seconds without work: it waits for a browser, or for others
FEW = {"check": (0.4, 2.0), "view": (0.1, 1.0), "compare": (0.2,), "new": (0.3,)}  # the others are slow
# After the interpreter's own start, which is not ours
START = f"""import sys
sys.argv[0] = {str(LIMO)!r}
import limo
print("ready", flush=True)
from limo.cli import main
main()"""
NOISE = ("Traceback", "Exception ignored", "KeyboardInterrupt", "resource_tracker", "Warning")


def used(pid: int) -> float:
    """Processor time of a process in seconds; infinite once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return float("inf") if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and a pool."""
    folder = tmp_path_factory.mktemp("interrupted")
    for name in ("first", "second"):
        (folder / "runs" / name).mkdir(parents=True)
        evaluation(folder / "runs" / name, "What is 1 + 1?")
        write_jsonl(folder / "runs" / name / "curated.jsonl", [example(f"s/{i}", "\\boxed{5}") for i in range(2000)])
    rows = [{"question": f"What is {n} plus 2?", "answer": str(n + 2), "completion": "1"} for n in range(20_000)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def cases() -> list[object]:
    every = [(command, after) for command in [*COMMANDS, "demo"] for after in {*SECONDS, *FEW.get(command, ())}]
    few = [(command, after) for command, seconds in FEW.items() for after in seconds]
    return [pytest.param(*case, marks=[] if case in few else [pytest.mark.slow]) for case in sorted(every)]


@pytest.mark.parametrize(("command", "after"), cases())
def test_an_interrupt_is_one_line(command: str, after: float, folder: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START, command, *ARGUMENTS.get(command, ["recipe=demo", f"runs={tmp_path}"])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LIMO_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    begun = before = used(process.pid)
    worked, deadline = time.monotonic(), time.monotonic() + 20
    while before < begun + after and time.monotonic() < min(deadline, worked + IDLE):
        time.sleep(0.002)
        if (now := used(process.pid)) > before:
            before, worked = now, time.monotonic()
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert not any(noise in said for noise in NOISE), said
    errors = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("error:")]
    assert len(errors) <= 1, said
    if not ended and process.returncode == 130:
        assert errors[0].startswith("error: interrupted"), said
    else:
        assert process.returncode in (0, 2), (process.returncode, said)


def test_an_error_in_the_context_of_its_own_cause_ends() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__context__ = second, first
    assert not _was_interrupted(first)
    second.__cause__ = KeyboardInterrupt()
    assert _was_interrupted(first)


def test_an_interrupt_that_a_library_swallows_ends_the_training_after_the_step() -> None:
    callback, state = Checkpoints(lambda: None, None), SimpleNamespace(global_step=1, max_steps=9)
    before = signal.getsignal(signal.SIGINT)
    callback.on_train_begin(None, state, None)
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        callback.on_step_end(None, state, SimpleNamespace())
    callback.on_train_end(None, state, None)
    assert signal.getsignal(signal.SIGINT) is before
