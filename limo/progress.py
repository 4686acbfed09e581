"""Progress of long work: a bar with rate and time left on a terminal, plain lines where there is none.

with progress("sampling", total=1200, unit="completion") as advance:
    ...
    advance(32)
    advance(1, "loss 0.412")
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Protocol

from limo.machine import is_main

if TYPE_CHECKING:
    from rich.progress import Progress

SHORT = 1.0  # seconds; shorter work needs no line
PLAIN_EVERY = 15.0  # seconds between lines in a log file


def clock(seconds: float) -> str:
    """Seconds in words: 9 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def pace(rate: float, unit: str = "") -> str:
    """A rate in units per second as text: 12.0/s, or 3 min 20 s each for slow units.

    >>> pace(12), pace(0.005)
    ('12.0/s', '3 min 20 s each')
    """
    return f"{rate:,.1f}{unit}/s" if rate >= 0.1 else f"{clock(1 / rate)} each"


def say(text: str) -> None:
    """Print one line to standard error. Of several ranks, only rank 0 prints."""
    if is_main():
        print(text, file=sys.stderr, flush=True)  # noqa: T201


class Advance(Protocol):
    """Reports that more units are done, with a short note to show beside them."""

    def __call__(self, done: int, note: str = "", /) -> None:
        """See the class."""


@contextmanager
def progress(what: str, total: int | None, unit: str = "row", done: int = 0) -> Iterator[Advance]:
    """Yield a function to call with the number of units done since the last call.

    `done` of the `total` were finished before and do not count for the rate.
    """
    draw = _bar if sys.stderr.isatty() and is_main() else _lines
    with draw(what, total, unit, done) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int | None, unit: str, before: int) -> Iterator[Advance]:
    """A bar on the terminal; one that is opened while another is open stands below it, whichever ends first."""
    display = _display()
    if not display.tasks:
        display.start()
    task = display.add_task(what, total=total, completed=before, note="", unit=unit)
    try:
        yield lambda done, note="": display.update(task, advance=done, note=note)
    finally:
        if len(display.tasks) == 1:
            display.stop()
        display.remove_task(task)


@cache
def _display() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(pace(task.speed, f" {task.fields['unit']}") if task.speed else "", style="dim")

    columns = [
        TextColumn("{task.description:>16}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    return Progress(*columns, console=Console(stderr=True))


@contextmanager
def _lines(what: str, total: int | None, unit: str, before: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    count = before
    warm: tuple[float, int] | None = None  # when the first came and how many: loading a model says nothing of the rate

    def show(note: str = "") -> None:
        spent = time.monotonic() - start
        known = warm is not None and count > warm[1] and count != total  # at the end, the rate is that of it all
        since, already = warm if warm and known else (start, before)
        rate = (count - already) / max(time.monotonic() - since, 1e-9)
        left = f", {clock((total - count) / rate)} left" if total and known and count < total else ""
        of = f"/{total}" if total else ""
        end = f", {note}" if note else ""
        fast = f", {pace(rate)}" if count > already else ""
        say(f"{what}: {count}{of} {unit}s{fast}, {clock(spent)}{left}{end}")

    def advance(done: int, note: str = "", /) -> None:
        nonlocal count, last, warm
        count += done
        warm = warm or (time.monotonic(), count)
        if time.monotonic() - last >= PLAIN_EVERY:
            last = time.monotonic()
            show(note)

    yield advance
    if time.monotonic() - start >= SHORT:
        show()
