"""Defines the exception for user errors, and prints it.

A `UserError` says in one line what is wrong, where, why, and what to do. `reported` prints it without a traceback and
exits with code 2. Any other exception is a bug and shows its traceback.
"""

import errno
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType

import limo

PATIENCE = 2  # seconds that other ranks wait before printing an error: if all ranks have it, only rank 0 prints it

# Control characters except tab and line end, characters that change the text direction, and lone surrogates
UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text that is safe to print on a terminal: control characters are escaped."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


# How libraries report a full disk in exceptions that have no errno
FULL = ("No space left on device", "file write failed", "failed writing file", "unexpected pos", "File too large")
NO_MEMORY = (
    "t allocate memory",
    "not allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "failed to map segment",
)


class UserError(ValueError):
    """Something a user can fix: a path, a key, a value, a missing package."""

    code = 2  # exit code of the command
    silent = False  # already printed by another rank

    def _render_traceback_(self) -> list[str]:
        """Used by notebooks: show the line that a command would print."""
        return [visible(f"error: {self}")]


def need_package(package: str, extra: str, what: str) -> None:
    """Raise UserError, with the command that installs it, if an optional package is missing."""
    try:
        import_module(package)
    except ImportError:
        raise UserError(f"{what} needs a package that is not installed: pip install 'limo-toolkit[{extra}]'") from None


class MissingModel(UserError):
    """Raised for a model of the Hub that is neither on this machine nor downloadable."""


class Interrupted(UserError):
    """Raised when work was interrupted and has saved its state, so that it can be resumed."""

    code = 143  # the exit code of a process that SIGTERM ended


def explain_os_error(error: OSError) -> UserError | None:
    """Explain in one line an error of the operating system that a user can fix; None for any other error."""
    name = str(error.filename or "")
    where = f" '{name}'" if name else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return UserError(
                f"no space left on the disk while writing{where}. What was finished is kept: free some space and run "
                "the same command again"
            )
        case errno.EACCES | errno.EROFS | errno.EPERM if name and Path(name).exists() and not os.access(name, os.R_OK):
            return UserError(f"may not read{where}: {error.strerror}. Change its permissions")
        case errno.EACCES | errno.EROFS | errno.EPERM:
            return UserError(f"may not write{where}: {error.strerror}. Choose another folder with runs=<folder>")
        case errno.ENOTDIR | errno.EEXIST if name:
            return UserError(
                f"cannot create{where}: a file has the name of a folder in that path. Choose another runs=<folder>"
            )
        case errno.ENOLCK | errno.EOPNOTSUPP | errno.ENOSYS | errno.ESTALE:
            return UserError(
                f"the file system{where} has no file locks, or lost them ({error.strerror}), so two machines could "
                "write into one folder: mount it with locks, or choose others with runs=<folder> and LIMO_CACHE"
            )
        case errno.EIO | errno.ENODEV | errno.EHOSTDOWN | errno.ETIMEDOUT if name:
            return UserError(f"the file system fails{where}: {error.strerror}. What was finished is kept")
        case errno.ENOENT if name:
            return UserError(f"no such file{where}. Check the path; relative paths start at the current folder")
        case _:
            return None


def explain(error: Exception) -> UserError | None:
    """Explain in one line an error that a user can fix; None if it is a bug."""
    text = str(error)
    if isinstance(error, UserError):
        return error
    if any(sign in text for sign in FULL):
        return explain_os_error(OSError(errno.ENOSPC, ""))
    system = isinstance(error, RuntimeError | OSError | ImportError) and any(sign in text for sign in NO_MEMORY)
    if system or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return UserError("out of memory. Use a smaller batch_size or max_length; what was finished is kept")
    return explain_os_error(error) if isinstance(error, OSError) else None


@contextmanager
def reported(explain: Callable[[Exception], UserError | None] = explain) -> Iterator[None]:
    """Around a command: a user error is one line on standard error and exit code 2, without a traceback."""
    ours = signal.getsignal(signal.SIGINT) is limo.end_at_once
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe, such as head, is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except Exception as error:
        if _was_interrupted(error):
            sys.exit(_interrupted())
        known = explain(error)
        if known is None:
            sys.excepthook = _print_traceback
            raise
        sys.exit(known.code if known.silent else _print_error(str(known), known.code))
    finally:
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, limo.end_at_once)


def _interrupted() -> int:
    """Print one line, on rank 0 only, and ignore further Ctrl-C. Returns the exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ.get("RANK", "0") == "0":
        _print_error("interrupted. What was finished is kept: run the same command again to resume", 130)
    return 130


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an error was caused by an interrupt that a library converted to another exception."""
    seen, waiting = set[int](), [error]
    while waiting:
        error = waiting.pop()
        if isinstance(error, KeyboardInterrupt):
            return True
        if error is not None and id(error) not in seen:  # an error that is raised again may be its own context's
            seen.add(id(error))
            waiting += [error.__cause__, error.__context__]
    return False


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a bug with `visible`, since its message may hold a server's text."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))


def _print_error(text: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    where = f"rank {rank}: " if rank != "0" else ""
    if where:
        time.sleep(PATIENCE)
    sys.stderr.write(f"error: {where}{visible(' '.join(text.split()))}\n")
    return code
