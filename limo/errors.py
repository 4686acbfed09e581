"""The one exception for what a person got wrong, and where it ends.

A `UserError` says in one line what is wrong, where, why, and what to do. `reported` prints it without a traceback and
exits with code 2. Everything else that escapes is a mistake of ours and shows its traceback.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2  # seconds: what all ranks find, rank 0 says, and the launcher ends the others before they repeat it


class UserError(ValueError):
    """Something a person can put right: a path, a key, a value, a missing package."""

    code = 2  # with which a command ends
    told = False  # already said by another rank

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the line that a command would print."""
        return [f"error: {self}"]


class Interrupted(UserError):
    """Work that was asked to stop, saved what it had, and can go on."""

    code = 143  # as of a process that SIGTERM ended


def one_line(error: OSError) -> UserError | None:
    """The operating system's refusals that a person can act on, as one line; None for any other."""
    where = f" '{error.filename}'" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return UserError(
                f"no space left on the disk while writing{where}. What was finished is kept: free some space and run "
                "the same command again"
            )
        case errno.EACCES | errno.EROFS | errno.EPERM:
            return UserError(
                f"may not write or read{where}: {error.strerror}. Choose another folder with runs=<folder>"
            )
        case errno.ENOENT if error.filename:
            return UserError(f"no such file{where}. Check the path; relative paths start at the current folder")
        case _:
            return None


def explained(error: Exception) -> Exception | None:
    """What a person can put right about an error; None if it is a mistake of ours."""
    if isinstance(error, UserError):
        return error
    return one_line(error) if isinstance(error, OSError) else None


@contextmanager
def reported(explain: Callable[[Exception], Exception | None] = explained) -> Iterator[None]:
    """Around a command: what a person got wrong is one line on standard error and exit code 2, without a traceback."""
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_say("interrupted. What was finished is kept: run the same command again to go on", 130))
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        code = told.code if isinstance(told, UserError) else 2
        sys.exit(code if isinstance(told, UserError) and told.told else _say(str(told), code))


def _say(text: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    where = f"rank {rank}: " if rank != "0" else ""
    if where:
        time.sleep(PATIENCE)
    sys.stderr.write(f"error: {where}{' '.join(text.split())}\n")
    return code
