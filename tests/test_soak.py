"""Sampling that is killed, out of disk or not allowed to write: the ledger stays sound and nothing is lost."""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from limo.engines.ledgers import add, list_models
from tests.conftest import ROOT, lines
from tests.test_kill import write_recipe


def count_samples(folder: Path) -> int:
    return sum(int(row[2].replace(",", "")) for row in list_models(folder).rows)


def curate(folder: Path, *more: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """A curation with a scripted engine, in a process of its own."""
    command = ["curation.run", "--config-dir", str(folder), "recipe=killed", f"runs={folder / 'made'}", *more]
    own = {"PYTHONPATH": str(ROOT), "LIMO_CACHE": str(folder / "cache"), "SLOW_LOG": str(folder / "log.txt")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=before,
    )


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """One clear line, and no traceback."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in said), line


def kept(folder: Path) -> int:
    """Samples in the ledger, which is sound."""
    samples = folder / "cache" / "samples"
    assert not any(samples.glob("*.sqlite")) or add(folder / "again", [samples])[1] == 0
    return count_samples(samples)


def test_a_full_disk_while_sampling_keeps_what_was_sampled(tmp_path: Path) -> None:
    write_recipe(tmp_path, "{_target_: tests.slow_engine.Slow, seconds: 0.0}", 1)
    # The ledger itself fits, its log of changes grows beyond the limit
    refused(curate(tmp_path, before=lambda: limited(80_000)), "no space left on the disk", ".sqlite", "are kept")
    had = kept(tmp_path)
    assert had > 0
    assert len((tmp_path / "log.txt").read_text().splitlines()) <= had, "all that was handed over is there"
    done = curate(tmp_path)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert len(log) == len(set(log)), "none was paid for twice"
    assert len(lines(tmp_path / "made" / "killed" / "curated.jsonl")) == 12


def limited(size: int) -> None:
    """No file may grow beyond so many bytes: what a full disk does, as far as a process can see."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("which", ["samples", "ledger", "runs"])
def test_a_read_only_folder_is_one_clear_line(which: str, tmp_path: Path) -> None:
    write_recipe(tmp_path, "{_target_: tests.slow_engine.Slow, seconds: 0.0}", 1)
    samples, runs = tmp_path / "cache" / "samples", tmp_path / "made"
    had = 0
    if which == "ledger":
        assert curate(tmp_path, "curate.budget.samples=50").returncode == 2
        had = kept(tmp_path)
        assert had == 50
    shut = {"samples": tmp_path / "cache", "ledger": samples, "runs": runs}[which]
    shut.mkdir(parents=True, exist_ok=True)
    for path in (shut, *shut.glob("*.sqlite*")):
        path.chmod(0o555)
    refused(curate(tmp_path, "curate.budget.samples=null", before=ordinary), "may not write", str(shut))
    shut.chmod(0o755)
    for path in shut.glob("*.sqlite*"):
        path.chmod(0o644)
    assert kept(tmp_path) == had
    assert curate(tmp_path).returncode == 0


def ordinary() -> None:
    """Take from root what lets it write to read-only folders (CAP_DAC_OVERRIDE); others never have it."""
    drop, override = 24, 1
    if os.geteuid() == 0:
        assert ctypes.CDLL(None, use_errno=True).prctl(drop, override, 0, 0, 0) == 0, (
            "root without the right to drop it"
        )
