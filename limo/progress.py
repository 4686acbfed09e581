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

from limo.errors import visible
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
        print(visible(text), file=sys.stderr, flush=True)  # noqa: T201


class Advance(Protocol):
    """Reports that more units are done, with a short note to show beside them."""

    def __call__(self, done: int, note: str = "", /) -> None:
        """See the class."""


@contextmanager
def progress(what: str, total: int | None, unit: str = "row") -> Iterator[Advance]:
    """Yield a function to call with the number of units done since the last call."""
    with (_bar if sys.stderr.isatty() and is_main() else _lines)(what, total, unit) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A bar on the terminal; one that is opened while another is open stands below it, whichever ends first."""
    display = _display()
    if not display.tasks:
        display.start()
    task = display.add_task(visible(what), total=total, note="", unit=unit)
    try:
        yield lambda done, note="": display.update(task, advance=done, note=visible(note))
    finally:
        if len(display.tasks) == 1:
            display.stop()
        display.remove_task(task)


@cache
def _display() -> "Progress":
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    class Rate(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            return Text(pace(task.speed, f" {task.fields['unit']}") if task.speed else "", style="dim")

    name, note = bars.TextColumn("{task.description:>16}"), bars.TextColumn("{task.fields[note]}")
    columns = [name, bars.BarColumn(), bars.MofNCompleteColumn(), Rate(), bars.TimeRemainingColumn(), note]
    return bars.Progress(*columns, console=Console(stderr=True))


@contextmanager
def _lines(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    start = last = time.monotonic()
    count = 0
    warm: tuple[float, int] | None = None  # when the first came and how many: loading a model is no part of the rate

    def show(note: str = "") -> None:
        known = warm is not None and count > warm[1] and count != total  # at the end, the rate is that of it all
        since, already = warm if warm and known else (start, 0)
        rate = (count - already) / max(time.monotonic() - since, 1e-9)
        parts = [f"{what}: {count}{f'/{total}' if total else ''} {unit}s"]
        parts += [pace(rate)] if count else []
        parts.append(
            clock(time.monotonic() - start) + (f", {clock((total - count) / rate)} left" if total and known else "")
        )
        say(", ".join([*parts, *([note] if note else [])]))

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
