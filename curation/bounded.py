"""A time budget for each row of a stage of scope row, and for each problem of one of scope problem.

    rows = run_bounded(function, rows, PerRow(), together=False)

A timer starts anew whenever the stage takes its next row. Where it runs out, the rows are given to the stage one by
one (problem by problem), and those that overrun alone are dropped. Setting up a stage, before its first row, is not
limited, nor is a stage of scope pool, or one that samples: what was paid for is never interrupted.

The timer is a signal, which Python handles between its own instructions and inside regular expressions. So it cannot
end one long call of a C library (`10**10**9`) before that returns, nor a stage that catches `BaseException`; and there
is no limit where the stage does not run in its process's main thread.
"""

import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from curation.similar import digest
from curation.stage import drop
from curation.stage_metrics import merge, take
from limo.data import Example, Row
from limo.errors import UserError
from limo.worker import PATIENCE

Function = Callable[[Iterable[Example]], Iterable[Row]]
CHUNK = 1000  # rows of a problem stage that are taken at once
AGAIN = 1.0  # seconds after which a stage that swallowed the signal gets another


@dataclass(frozen=True, slots=True)
class PerRow:
    """What one row may take in any stage; a row that takes more is dropped."""

    seconds: float = 30.0  # of processor time, and PATIENCE times that by the clock, in a stage that does not sample
    characters: int = 2**24  # as a line of JSON

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.characters > 0):
            raise UserError(f"curate.per_row needs seconds and characters above 0: {self}")


class Overrun(BaseException):
    """A row takes too long. Not an Exception, so that a stage's own `except Exception` does not swallow it."""


class _Fed:
    """Rows that restart the timer as they are taken."""

    def __init__(self, rows: Iterable[Example], seconds: float) -> None:
        self.rows, self.seconds = rows, seconds

    def __iter__(self) -> Iterator[Example]:
        for row in self.rows:
            _restart(self.seconds)
            yield row
        _restart(self.seconds)


_armed = False


def _restart(seconds: float) -> None:
    if _armed:
        signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds, AGAIN)


def _stop(*_: Any) -> None:
    if _armed:
        raise Overrun


@contextmanager
def _timer() -> Iterator[None]:
    """Within the block, `_restart` limits what follows it. Raises Overrun there."""
    global _armed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, _stop) for kind in (signal.SIGPROF, signal.SIGALRM)}
    _armed = True
    try:
        yield
    finally:
        _armed = False
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def run_bounded(function: Function, rows: list[Example], per_row: PerRow, together: bool) -> list[Row]:
    """What a stage yields for `rows`; a row that overruns its budget is dropped, or all where they are `together`."""
    before = take()
    try:
        with _timer():
            found = list(function(_Fed(rows, per_row.seconds)))
    except (Overrun, MemoryError) as error:
        take()  # metrics of rows that are done again, or dropped
        if together or len(rows) == 1:
            found = [_dropped(row, error, per_row) for row in rows]
        else:
            found = [out for row in rows for out in run_bounded(function, [row], per_row, together)]
    made = take()
    merge(before)
    merge(made)
    return found


def _dropped(row: Example, error: BaseException, per_row: PerRow) -> Row:
    if isinstance(error, MemoryError):
        return drop(row, "takes too much memory")
    return drop(row, "takes too long", f"more than curate.per_row.seconds={per_row.seconds:g} of processor time")


def run_problems(function: Function, rows: Iterable[Example], per_row: PerRow) -> Iterator[Row]:
    """What a stage of scope problem yields for `rows`, which can be read again; problems that overrun are dropped.

    All rows of a problem that overruns are dropped but those that the stage had yielded. Only where one overruns all
    rows are in memory.
    """
    found, given = iter(function(_Fed(rows, per_row.seconds))), 0
    try:
        while True:
            with _timer():
                chunk = list(islice(found, CHUNK))
            if not chunk:
                return
            yield from chunk
            given += len(chunk)
    except (Overrun, MemoryError):
        take()
    problems = defaultdict[int, list[Example]](list)
    for row in rows:
        problems[digest(row.problem)].append(row)
    results = {key: iter(run_bounded(function, listed, per_row, True)) for key, listed in problems.items()}
    yield from islice((next(results[digest(row.problem)]) for row in rows), given, None)
