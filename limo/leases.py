"""Who works on what, across machines that share nothing but a folder.

    with Leases(folder, expiry=300) as leases:
        if leases.claim("00007"):
            ...
            leases.finish("00007")

A lease is a file `leases/<name>.<generation>` with its holder inside, made by `os.link`, which one of any number of
machines wins; whoever holds the highest generation holds the name. Nothing is ever renamed or removed, so that nobody
can take away a lease that is newer than the one it looked at. A worker touches one file of its own, `workers/<worker>`;
when that is older than `expiry`, its leases may be taken over at the next generation. `flock` is not used: over network
file systems it is often local to a machine. Ages are compared by the file system's clock, not by those of machines.

Left out: a worker that was suspended learns that it lost a lease when it asks (`holds`), not before.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from limo.errors import UserError

BEATS = 6  # of a worker, within the time after which it counts as dead


class Leases:
    """The leases of one worker, kept alive by a thread while the context is open; on leaving it all are given up."""

    def __init__(self, folder: Path, expiry: float) -> None:
        """Args: `expiry` seconds without a sign of life after which a worker counts as dead.

        A network file system shows changes late (NFS up to 60 s by default): `expiry` must be well above that.
        """
        if expiry <= 0:
            raise UserError(f"expiry must be more than 0 seconds, not {expiry}")
        self.folder, self.expiry = folder, expiry
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.held: dict[str, int] = {}  # name: generation
        self._holders: dict[Path, str] = {}  # of a lease file, which never changes
        self._checked = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="leases")
        for name in ("leases", "workers", "done"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._sign.unlink(missing_ok=True)

    @property
    def _sign(self) -> Path:
        return self.folder / "workers" / self.worker

    def _live(self) -> None:
        while not self._ended.wait(self.expiry / BEATS):
            try:
                self._beat()
            except OSError:  # a full disk or a server that is away for a while: the next beat may succeed
                continue

    def _beat(self) -> float:
        """Give a sign of life; returns the file system's time of it."""
        self._sign.touch()
        return self._sign.stat().st_mtime

    def claim(self, name: str) -> int:
        """Take a lease on `name`: its generation, from 1, or 0 if it is done or a living worker holds it."""
        return self.first_free([name])[1]

    def first_free(self, names: Iterable[str]) -> tuple[str, int]:
        """Take a lease on the first of `names` that is to be had: its name and generation, or ("", 0)."""
        done, newest, alive = self.done(), self._newest(), self._alive()
        for name in names:
            generation = newest.get(name, 0)
            if name in done or (generation and self._holder(name, generation) in alive):
                continue
            if self._link(name, generation + 1):
                self.held[name] = generation + 1
                return name, generation + 1
        return "", 0

    def free(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are not done and that no living worker holds."""
        done, newest, alive = self.done(), self._newest(), self._alive()
        return [n for n in names if n not in done and (n not in newest or self._holder(n, newest[n]) not in alive)]

    def holds(self, name: str) -> bool:
        """Whether this worker still has the lease. Asks the file system again where the last look is a beat ago."""
        if time.monotonic() - self._checked > self.expiry / BEATS:
            newest = self._newest()
            self.held = {name: mine for name, mine in self.held.items() if newest.get(name, 0) <= mine}
            self._checked = time.monotonic()
        return name in self.held

    def finish(self, name: str) -> bool:
        """Mark `name` as done for all, unless its lease was lost. Whether it was marked."""
        self._checked = float("-inf")
        held = self.holds(name)
        if held:
            (self.folder / "done" / name).touch()
            del self.held[name]
        return held

    def done(self) -> set[str]:
        """The names that are done."""
        return {path.name for path in (self.folder / "done").iterdir()}

    def _newest(self) -> dict[str, int]:
        """The highest generation of each name that was ever leased."""
        newest: dict[str, int] = {}
        for path in (self.folder / "leases").iterdir():
            name, _, generation = path.name.rpartition(".")
            if generation.isdigit():
                newest[name] = max(newest.get(name, 0), int(generation))
        return newest

    def _alive(self) -> set[str]:
        """The workers that gave a sign of life within `expiry`."""
        now = self._beat()
        with os.scandir(self.folder / "workers") as signs:
            return {sign.name for sign in signs if now - _changed(sign) < self.expiry}

    def _holder(self, name: str, generation: int) -> str:
        path = self.folder / "leases" / f"{name}.{generation}"
        if path not in self._holders:
            self._holders[path] = path.read_text(encoding="utf-8")
        return self._holders[path]

    def _link(self, name: str, generation: int) -> bool:
        """Make the lease file, whole at once. True if this worker made it."""
        mine = self.folder / "leases" / f".{self.worker}"
        mine.write_text(self.worker, encoding="utf-8")
        try:
            os.link(mine, self.folder / "leases" / f"{name}.{generation}")
        except FileExistsError:
            return mine.stat().st_nlink == 2  # over NFS a link may succeed and its answer be lost
        finally:
            mine.unlink()
        return True


def _changed(sign: "os.DirEntry[str]") -> float:
    """When a worker's file was touched; long ago, if it is gone by now."""
    try:
        return sign.stat().st_mtime
    except FileNotFoundError:
        return float("-inf")
