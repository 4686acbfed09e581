"""A sampling job that is killed again and again: does it lose anything, pay twice, grow, or break its ledger?

    python -m bench.proofs.soak --restarts 1000 --minutes 20

Each restart asks for the same samples through the ledger, gets on a little, and is ended by SIGKILL at a random moment.
After each one the ledger is opened and every page and text of it is read. The job writes down, outside of the ledger,
what it draws and what was handed to it; at the end all of it must be there, and drawn twice may only be what a kill met
in flight. Memory is the most that each restart had at any time.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from limo.console import clock
from limo.data import chat
from limo.engines.ledger import Cached, open_ledger
from limo.engines.ledgers import add
from limo.engines.protocol import Completion, Prompt, Request, Sampling, Take, stream

SAMPLES = 2  # of each prompt
BATCH = 4  # under way at once, so that a kill may cost so many
SAMPLING = Sampling(n=SAMPLES, temperature=1.0, top_p=1.0, max_tokens=64, seed=0)


class Drawing:
    """An engine that answers after a moment, and writes down what it draws and what was taken from it."""

    fingerprint = "soak"

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.drawn, self.handed = ((folder / name).open("ab", buffering=0) for name in ("drawn", "handed"))

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `limo.engines.protocol.Engine.complete`."""
        while requests := take(BATCH):
            names = [f"{request.prompt[-1]['content']}/{request.index}\n".encode() for request in requests]
            for name in names:
                self.drawn.write(name)
            time.sleep(self.seconds)
            for request, name in zip(requests, names, strict=True):
                yield request, Completion(f"A text for {name.decode().strip()}. " * 8, 48, "stop")
                self.handed.write(name)  # asked for the next one: by now the ledger has it


def job(folder: Path, prompts: int, seconds: float) -> None:
    """What is killed: sample all prompts through the ledger."""
    asked: Iterator[tuple[Prompt, int]] = ((chat(f"Question {at}?"), SAMPLES) for at in range(prompts))
    for _ in stream(Cached(Drawing(folder, seconds), folder / "samples"), asked, SAMPLING):
        pass


@dataclass
class Soak:
    """What the restarts came to."""

    restarts: int = 0
    killed: int = 0
    finished: int = 0
    memory: list[float] = field(default_factory=list)  # MB, the most of each restart
    broken: list[str] = field(default_factory=list)  # what was wrong with the ledger, and after which restart


def soak(folder: Path, restarts: int, seconds: float, prompts: int, longest: float, seed: int = 0) -> Soak:
    """Restart and kill the job so often, or for so many seconds. Returns what was seen; `verdict` judges it."""
    draw, found, begun = random.Random(seed), Soak(), time.monotonic()
    command = [sys.executable, __file__, "--job", str(folder), "--prompts", str(prompts)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    while found.restarts < restarts and time.monotonic() - begun < seconds:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        time.sleep(draw.uniform(0.2, longest))
        process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said = process.stderr.read() if process.stderr else ""
        process.stderr and process.stderr.close()
        found.restarts += 1
        if process.returncode == -signal.SIGKILL:
            found.killed += 1
            found.memory.append(usage.ru_maxrss / 1024)
        elif process.returncode == 0:
            found.finished += 1
        else:
            found.broken.append(f"restart {found.restarts} ended with {process.returncode}: {said[-300:]}")
        _, damaged = add(folder / "added", [folder / "samples"])
        found.broken += [f"after restart {found.restarts}: {damaged} samples are damaged"] * bool(damaged)
    return found


def verdict(folder: Path, found: Soak) -> list[str]:
    """What the restarts broke; nothing, it is hoped. Raises nothing."""
    drawn = Counter((folder / "drawn").read_bytes().splitlines())
    handed = Counter((folder / "handed").read_bytes().splitlines())
    with closing(open_ledger(next((folder / "samples").glob("*.sqlite")))) as store:
        (kept,) = store.execute("SELECT count(*) FROM completion").fetchone()
    wrong = list(found.broken)
    if kept < len(handed):
        wrong.append(f"{len(handed)} samples were handed over, the ledger has {kept}")
    if max(handed.values(), default=0) > 1:
        wrong.append(f"{sum(n > 1 for n in handed.values())} samples were paid for twice")
    again = sum(drawn.values()) - len(drawn)
    if again > BATCH * found.restarts:
        wrong.append(f"{again} samples were drawn again, more than {BATCH} a restart")
    quarter = len(found.memory) // 4
    if quarter and (grown := growth(found)) > 1.1:
        wrong.append(f"memory grew by {100 * (grown - 1):.0f} %")
    return wrong


def growth(found: Soak) -> float:
    """Median memory of the last quarter of the restarts over that of the first, of those that lived long enough."""
    quarter = len(found.memory) // 4
    first, last = (
        [mb for mb in part if mb > 0.8 * max(found.memory)]
        for part in (found.memory[:quarter], found.memory[-quarter:])
    )
    return statistics.median(last) / statistics.median(first) if first and last else 1.0


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5.0, help="ends sooner than the restarts, if it comes to that")
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--longest", type=float, default=1.2, help="seconds before a kill, at most")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        job(given.job, given.prompts, 0.01)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name), time.monotonic()
        found = soak(folder, given.restarts, 60 * given.minutes, given.prompts, given.longest)
        wrong = verdict(folder, found)
        with closing(open_ledger(next((folder / "samples").glob("*.sqlite")))) as store:
            (kept,) = store.execute("SELECT count(*) FROM completion").fetchone()
        print(
            f"{found.restarts} restarts in {clock(time.monotonic() - begun)}, {found.killed} killed; {kept:,} samples"
        )
        print(
            f"memory up to {max(found.memory):.0f} MB, in the last quarter {growth(found):.3f} times that of the first"
        )
        print("\n".join(wrong) or "nothing lost, nothing paid for twice, every ledger sound")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
