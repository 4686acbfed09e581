"""Engines for the kill tests: slow, and writing down each completion once it has been handed over."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from limo.engines.protocol import Completion, Request, Sampling, Take
from tests.conftest import ROOT


class Slow:
    """Answers after a while with a number that depends on question and index."""

    fingerprint = "slow"

    def __init__(self, *, seconds: float) -> None:
        # Not a setting: a file named in a recipe is an input, which must not change
        self.log, self.seconds = Path(os.environ["SLOW_LOG"]), seconds

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `limo.engines.protocol.Engine.complete`."""
        while requests := take(4):
            for request in requests:
                time.sleep(self.seconds)
                name = f"{request.prompt[-1]['content']}/{sampling.seed}/{request.index}"
                digit = hashlib.sha256(name.encode()).digest()[0] % 4
                yield request, Completion(f"Perhaps we check it. So \\boxed{{{digit}}}", 9, "stop")
                with self.log.open("a") as file:  # only now is it known to be kept
                    file.write(name + "\n")
                    file.flush()
                    os.fsync(file.fileno())


class Timed(Slow):
    """Writes down who drew each completion, and from when to when, in seconds that all processes share."""

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `limo.engines.protocol.Engine.complete`."""
        while requests := take(4):
            for request in requests:
                begun = time.monotonic()
                time.sleep(self.seconds)
                ended = time.monotonic()
                name = f"{request.prompt[-1]['content']}/{sampling.seed}/{request.index}"
                digit = hashlib.sha256(name.encode()).digest()[0] % 4
                yield request, Completion(f"Perhaps we check it. So \\boxed{{{digit}}}", 9, "stop")
                with self.log.open("a") as file:
                    file.write(f"{os.getpid()} {begun} {ended} {name}\n")


def start(command: list[str], cache: Path, log: Path) -> "subprocess.Popen[str]":
    """`python -m` command in a process group of its own, with a ledger of its own; the engine writes to `log`."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LIMO_CACHE": str(cache), "SLOW_LOG": str(log)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
