"""Checkpoints that are whole, and only those; and whether this run can go on from one.

After all ranks have written, rank 0 lists the files and their sizes in `whole.json`, last. A checkpoint without that
list, or with a file missing or of another size, was cut off and is never taken. A new one is complete before an old one
is removed, so a full disk or a killed process costs the steps since the last and nothing else.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limo.data import replacing
from limo.errors import UserError

MARK = "whole.json"


def steps_in(checkpoint: Path | None) -> int:
    """The optimizer steps a checkpoint has seen, by its name; 0 for none."""
    return int(checkpoint.name.partition("-")[2]) if checkpoint else 0


def mark_whole(checkpoint: Path, **made_with: Any) -> None:
    """Say that all ranks have written their parts; `made_with` is what a later run needs to know: ranks, ZeRO stage."""
    files = {str(f.relative_to(checkpoint)): f.stat().st_size for f in sorted(checkpoint.rglob("*")) if f.is_file()}
    files.pop(MARK, None)
    with replacing(checkpoint / MARK) as file:
        json.dump({**made_with, "files": files}, file, indent=1)


def read_mark(checkpoint: Path) -> dict[str, Any] | None:
    """What `mark_whole` wrote, or None if the checkpoint is not whole. Raises UserError if it cannot be read."""
    try:
        mark = dict(json.loads((checkpoint / MARK).read_text(encoding="utf-8")))
        stands = all((checkpoint / name).stat().st_size == size for name, size in mark["files"].items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None
    except OSError as error:  # what cannot be read now may be whole, and is no reason to remove it
        raise UserError(f"cannot read {checkpoint} ({error.strerror}): mend that, or move it away") from error
    return mark if stands else None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder."""
    named = [p for p in folder.glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    return next((p for p in sorted(named, key=steps_in, reverse=True) if read_mark(p)), None)


def remove_broken(folder: Path) -> list[Path]:
    """Remove checkpoints that are not whole, so that nothing of them mixes with what is written anew; returns them."""
    broken = [p for p in folder.glob("checkpoint-*") if p.is_dir() and not read_mark(p)]
    for path in broken:
        shutil.rmtree(path, ignore_errors=True)
    return broken


def check_resumable(checkpoint: Path, ranks: int, kind: str) -> None:
    """Raise UserError if the library cannot go on from `checkpoint` here.

    `kind` is ddp, fsdp2 or zero1 to zero3. Without ZeRO any number of ranks can go on. DeepSpeed 0.19 loads optimizer
    shards only with as many ranks, and at the same stage, as wrote them.
    """
    mark = read_mark(checkpoint) or {}
    if mark.get("weights_only"):
        raise UserError(
            f"{checkpoint} has no optimizer state (save_only_model was set): the learning rate would start anew. "
            "Remove the run's folder, or train on from that model under a new name with model="
        )
    made, by = str(mark.get("kind", kind)), int(mark.get("ranks", ranks))
    if made.startswith("zero") and by != ranks:
        raise UserError(
            f"{checkpoint} was written by {by} ranks under {made}, and DeepSpeed cannot share its optimizer "
            f"states out anew over {ranks}: go on with train.devices={by}, or give the run a new name="
        )
    if made != kind:
        raise UserError(
            f"{checkpoint} was written under {made} by {by} ranks; it cannot be continued under {kind}: go on with "
            f"train.sharding={made} train.devices={by}, or give the run a new name="
        )


@contextmanager
def locked(folder: Path, doing: str = "training") -> Iterator[None]:
    """Around work that writes into `folder`, a folder of a run. Raises UserError if another process is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is {doing} in {folder.parent}: wait for it, end it, or give this run a new name="
            ) from None
        yield  # the system gives the lock back with the process, however that ends


def as_kind(deepspeed: Mapping[str, Any] | None, fsdp: bool) -> str:
    """What a checkpoint's optimizer state is written as."""
    from limo.sharding import stage

    return f"zero{stage(deepspeed)}" if deepspeed else "fsdp2" if fsdp else "ddp"


def unmark(checkpoint: Path) -> None:
    """Before a checkpoint is written anew: from now on it is not whole."""
    (checkpoint / MARK).unlink(missing_ok=True)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its mark first, so that one that is half removed is not taken for whole."""
    unmark(checkpoint)
    shutil.rmtree(checkpoint, ignore_errors=True)
