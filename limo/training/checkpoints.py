"""Finds the last whole checkpoint, and checks whether this run can resume from it.

After all ranks have written, rank 0 lists the files with their SHA-256 in `whole.json`, last, and flushes all of them
to the disk. A checkpoint without that list was interrupted while it was written and is removed. A checkpoint whose
files differ from the list is broken: it is renamed to `broken-checkpoint-N` with the reason in `reason.txt`, and the
one before is used. An old checkpoint is removed only after the new one is whole.
"""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from limo.console import say
from limo.data import replacing
from limo.errors import UserError
from limo.machine import count_cores

MARK = "whole.json"


def steps_in(checkpoint: Path | None) -> int:
    """The number of optimizer steps in a checkpoint's name; 0 for None."""
    return int(checkpoint.name.partition("-")[2]) if checkpoint else 0


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first, whole or not."""
    named = [p for p in folder.glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    return sorted(named, key=steps_in, reverse=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder contains a completely written checkpoint. The checkpoint's files are not read."""
    return any(folder.glob(f"checkpoint-*/{MARK}"))


def mark_whole(checkpoint: Path, **made_with: Any) -> None:
    """Record that all ranks have written their parts. `made_with` holds what a later run compares: sharding and number
    of ranks.
    """
    digests = _hash_files(checkpoint)
    with replacing(checkpoint / MARK) as file:
        json.dump({**made_with, "files": digests}, file, indent=1)
    for path in (*checkpoint.rglob("*"), checkpoint, checkpoint.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # for a folder, this flushes its list of names
        finally:
            os.close(handle)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder. Newer ones that are not whole are removed or renamed, with a message."""
    for path in list_checkpoints(folder):
        fault = find_fault(path)
        if fault is None:
            return path
        if not (path / MARK).exists():
            shutil.rmtree(path)
            say(f"{path} was not written to the end, and is removed")
            continue
        broken = path.with_name(f"broken-{path.name}")
        shutil.rmtree(broken, ignore_errors=True)
        path.rename(broken)
        (broken / "reason.txt").write_text(fault + "\n", encoding="utf-8")
        say(f"{path} is broken ({fault}): kept as {broken.name}, the checkpoint before it is used")
    return None


def find_fault(checkpoint: Path) -> str | None:
    """The reason why a checkpoint is not whole; None if it is. Raises UserError if it cannot be read at the moment, so
    that it may be whole.
    """
    try:
        listed = dict(json.loads((checkpoint / MARK).read_text(encoding="utf-8"))["files"])
        found = _hash_files(checkpoint)
    except FileNotFoundError:
        return f"no {MARK}"
    except (ValueError, KeyError, TypeError):
        return f"{MARK} is not readable"
    except OSError as error:
        raise UserError(f"cannot read {checkpoint} ({error.strerror}): fix that, or move it away") from error
    if missing := sorted(listed.keys() - found.keys()):
        return f"{missing[0]} is missing"
    changed = [name for name, digest in listed.items() if found[name] != digest]
    return f"{changed[0]} has other content than was written" if changed else None


def check_resumable(checkpoint: Path, ranks: int, kind: str) -> None:
    """Raise UserError if DeepSpeed cannot resume from `checkpoint` with the current number of ranks and sharding.
    `kind` is the current sharding, as returned by `name_sharding`.

    DeepSpeed 0.19 loads optimizer shards only with as many ranks, and at the same stage, as wrote them.
    """
    mark = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))
    made, by = mark["kind"], mark["ranks"]
    if made != kind or (made.startswith("zero") and by != ranks):
        raise UserError(
            f"{checkpoint} was written under {made} by {by} ranks and cannot be resumed under {kind} by {ranks}: set "
            f"train.sharding={made} train.devices={by}, or give the run a new name="
        )


def _hash_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file but the mark, computed in several threads."""

    def read(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MARK]
    with ThreadPoolExecutor(count_cores()) as pool:
        return dict(zip((str(path.relative_to(folder)) for path in files), pool.map(read, files), strict=True))
