"""What a machine does to a command: memory and disk that end, file systems without locks, a clock that jumps, NaN."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import limo.data
from limo.command import _explain
from limo.errors import UserError, explain, explain_os_error
from limo.run import lock_run
from tests import test_preference as pairs
from tests import test_tournament as played
from tests.conftest import ROOT
from tests.test_commands import small

OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
MEMORY: list[Exception] = [
    MemoryError(),
    MemoryError("Unable to allocate 7.45 GiB for an array"),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]
DISK: list[Exception] = [
    *(OSError(number, os.strerror(number), "x") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 640 vs 534"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    type("SafetensorError", (Exception,), {})("I/O error: No space left on device (os error 28)"),
]
LOCKS: list[Exception] = [
    OSError(number, os.strerror(number)) for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESTALE)
]
CASES = [
    *((error, "out of memory") for error in MEMORY),
    *((error, "no space left on the disk") for error in DISK),
    *((error, "no file locks, or lost them") for error in LOCKS),
    *((OSError(n, os.strerror(n), "x"), "the file system fails 'x'") for n in (errno.EIO, errno.ETIMEDOUT)),
]


@pytest.mark.parametrize(("error", "said"), CASES, ids=str)
def test_what_the_machine_lacks_is_one_line_in_every_command(error: Exception, said: str) -> None:
    for known in (explain(error), _explain(error, True)):
        assert known is not None and said in str(known) and "\n" not in str(known)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes differ"), KeyError("memory")], ids=str)
def test_any_other_error_is_a_bug_and_keeps_its_traceback(error: Exception) -> None:
    assert explain(error) is None and _explain(error, True) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_not_written_by_two(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    again = pytest.raises(UserError, match="another process is training")
    with lock_run(tmp_path / "run", "training"), again, lock_run(tmp_path / "run", "training"):
        pass
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError) as raised, lock_run(tmp_path / "run", "training"):
        pass
    assert "mount it with locks" in str(explain_os_error(raised.value))


def test_nothing_depends_on_the_clock_of_the_wall() -> None:
    """It jumps: deadlines, budgets and rates take the monotonic one."""
    files = [path for package in ("limo", "curation", "eval") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        assert not re.search(r"time\.time\(|datetime\.(now|utcnow|today)|date\.today", path.read_text()), path


NOT_FINITE: list[tuple[dict[str, Any], str]] = [
    ({"args": {"learning_rate": 1e30, "max_grad_norm": 0.0}}, "training diverged: "),
    ({"args": {"learning_rate": float("inf"), "max_grad_norm": 0.0}}, "training diverged: "),
    ({"loss": "tests.test_attacks.not_a_number"}, "training diverged: the loss of step 1|it is not finite everywhere"),
    ({"loss": "tests.test_attacks.infinite"}, "training diverged: the loss of step 1|it is not finite everywhere"),
    (
        {"loss": "tests.test_attacks.steep"},
        "training diverged: the gradient norm of step 1|it is not finite everywhere",
    ),
]


def not_a_number(batch: Any, beta: float, /) -> Any:
    """0 / 0 for every pair."""
    return batch.margin * float("nan")


def infinite(batch: Any, beta: float, /) -> Any:
    """Infinite for every pair."""
    return float("inf") - batch.margin


def steep(batch: Any, beta: float, /) -> Any:
    """A root, whose slope is infinite where pairs begin."""
    return batch.margin.abs().sqrt()


@pytest.mark.parametrize(("changed", "said"), NOT_FINITE, ids=lambda part: part if isinstance(part, str) else "")
def test_a_preference_training_that_is_not_finite_stops_and_saves_nothing(
    changed: dict[str, Any], said: str, tiny: Path, tmp_path: Path
) -> None:
    args = {**pairs.ARGS, "save_steps": 1, **changed.get("args", {})}
    with pytest.raises(UserError, match=said):
        pairs.prefer(**{**pairs.settings(tiny, tmp_path), **changed, "args": args})
    assert not (tmp_path / "run" / "model").exists()


class Killed(BaseException):
    """What a kill looks like to the files."""


def test_a_tournament_that_is_killed_at_any_write_or_training_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was measured is measured again, but what was under way."""
    whole = played.field(tmp_path / "killed", 0.6)
    verdict, sync = whole.run(list(played.CANDIDATES), 0.03), os.fsync
    measured = len(whole.trainer.seen)  # type: ignore[attr-defined]
    shutil.move(tmp_path / "killed", tmp_path / "whole")  # what is measured depends on the place

    def killing(at: int) -> Callable[[int], None]:
        left = iter(range(at))

        def write(file: int) -> None:
            if next(left, None) is None:
                raise Killed
            sync(file)

        return write

    again, kills = 0, 0
    for at in (*range(12), 15, 21, 34, 55):
        made = played.field(tmp_path / "killed", 0.6)
        with monkeypatch.context() as patched:
            patched.setattr(limo.data.os, "fsync", killing(at))
            try:
                made.run(list(played.CANDIDATES), 0.03)
                break
            except Killed:
                kills += 1
            finally:
                again += len(made.trainer.seen)  # type: ignore[attr-defined]
    last = played.field(tmp_path / "killed", 0.6)
    found = last.run(list(played.CANDIDATES), 0.03)
    again += len(last.trainer.seen)  # type: ignore[attr-defined]
    assert kills >= 4
    assert (found.outcome, found.sentence) == (verdict.outcome, verdict.sentence)
    assert measured <= again <= measured + kills, "only what a kill has met is measured again"


@pytest.mark.slow
def test_a_probe_that_is_killed_in_any_phase_ends_the_same(tiny: Path, tmp_path: Path) -> None:
    """Its curation, its planting, its scoring and its writing."""

    def probing(runs: str) -> subprocess.Popen[bytes]:
        settings = [*small(tiny, tmp_path / runs), "probe.fit.max_length=500", "probe.chains=12"]
        call = [sys.executable, "-m", "curation.evidence.probe", *settings]
        return subprocess.Popen(
            call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    begun = time.monotonic()
    whole = probing("whole")
    assert whole.communicate() and whole.returncode == 0
    seconds, kills = time.monotonic() - begun, 0
    for part in range(1, 10):
        process = probing("killed")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds * part / 10)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    last = probing("killed")
    assert last.communicate() and last.returncode == 0 and kills >= 3
    found = [json.loads((tmp_path / runs / "demo" / "probe.json").read_text()) for runs in ("whole", "killed")]
    assert found[0] == found[1] and found[0]


FULL = """import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
sys.argv[0] = "limo"
from limo.cli import main
main()"""


@pytest.mark.parametrize("command", ["new pool.jsonl", "grade done.jsonl out=graded.jsonl", "view run bundle=public"])
def test_a_disk_that_fills_is_one_line(command: str, tmp_path: Path) -> None:
    """No file may have more than 700 bytes, and none that is cut off has its name."""
    rows = [{"question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(40)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = [{**row, "completion": f"It is \\boxed{{{row['answer']}}}"} for row in rows]
    (tmp_path / "done.jsonl").write_text("".join(json.dumps(row) + "\n" for row in done))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "curated.jsonl").write_text((tmp_path / "pool.jsonl").read_text())
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    found = subprocess.run(
        [sys.executable, "-c", FULL, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2 and "error: no space left on the disk" in found.stderr, found.stderr
    assert "Traceback" not in found.stderr and found.stderr.count("error:") == 1
    left = {path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts} - before
    assert all(path.stat().st_size < 700 for path in left), left
