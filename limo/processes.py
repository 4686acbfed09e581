"""Commands in child processes, which end when this process does."""

import ctypes
import gc
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from limo.data import replacing
from limo.errors import Interrupted, UserError

STOPPED = (130, 137, 143)  # exit codes of a command that was interrupted, killed or terminated
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)


def run_module(module: str, arguments: Sequence[str], log: Path | None = None) -> int:
    """Run `python -m module arguments` to its end. Returns its exit code, 128 and more where a signal ended it.

    Its output is appended to the file `log`, or goes where this process's own goes. It is killed when this process is,
    where the system can; SIGTERM is passed on, so that a training saves its step.
    """
    with ExitStack() as stack:
        out = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            out = stack.enter_context(log.open("a", encoding="utf-8"))
        call = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(call, stdout=out, stderr=out, preexec_fn=partial(die_with_parent, os.getpid()))
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the child as well
            code = process.wait() or 130
        finally:
            signal.signal(signal.SIGTERM, before)
    return 128 - code if code < 0 else code


def run_to_end(module: str, arguments: Sequence[str], folder: Path, refused: int = 0) -> str:
    """`run_module` for what fills `folder`, with its log there; its last line if it ended with the code `refused`.

    Returns "" at success. Raises Interrupted if it was stopped, and UserError with its last line at any other code.
    """
    log = folder / "log.txt"
    code = run_module(module, arguments, log)
    if code in STOPPED:
        raise Interrupted(f"{module} in {folder} was stopped: run the same command again to resume")
    if code not in (0, refused):
        raise UserError(f"{module} in {folder} ended with code {code}: {last_line(log)}. Its whole log is {log}")
    return last_line(log) if code else ""


def run_section_apart(module: str, section: str, node: Mapping[str, Any], folder: Path, refused: int = 0) -> str:
    """`run_to_end` of one section of a recipe, which is written to `folder`/recipe/alone.yaml as it will run.

    `node` is the section with every value resolved, `_target_` included; its `out` is `folder`.
    """
    recipe = {"name": folder.name, "out": str(folder), section: node}
    with replacing(folder / "recipe" / "alone.yaml") as file:  # JSON is YAML
        file.write("# @package _global_\n" + json.dumps(recipe, indent=1).replace("${", "\\\\${") + "\n")
    return run_to_end(module, ["recipe=alone", "--config-dir", str(folder.resolve())], folder, refused)


def last_line(log: Path) -> str:
    """The last line that a command printed, without the word error."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "no output").removeprefix("error: ").strip()


def free_gpu() -> None:
    """Give the memory of models that are gone back to the GPU, for a process that comes next."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Keep freed memory in this process, where the C library is glibc: mallopt(3).

    A training step on a CPU frees and asks for gigabytes. By default they go back to the system each time, and every
    page that comes anew is cleared first: a fifth of the step (docs/LOG.md has the measurement).
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change:
        change(M_MMAP_MAX, 0)
        change(M_TRIM_THRESHOLD, -1)


def die_with_parent(parent: int) -> None:
    """Run in a child before its command starts: on Linux the kernel kills it when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before this was asked for
        os._exit(1)


def override(key: str, value: Any) -> str:
    """A setting as Hydra's command line takes it.

    >>> override("train.loss", {"_target_": "a.b", "tau": 0.05, "on": None})
    "train.loss={_target_: 'a.b', tau: 0.05, on: null}"
    """
    return f"{key}={_write(value)}"


def _write(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_write(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_write, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # Backslashes count as such except before a quote
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), value) + "'"
