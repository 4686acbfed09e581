"""Prints to the terminal: the progress of long work, lines that are also written to a run's log, and tables.

    with progress("sampling", total=1200, unit="completion") as advance:
        advance(32)
        advance(1, "loss 0.412")

On a terminal, progress is a bar with rate and time left; elsewhere it is plain lines. A table has three renderings:
`print_table` for a terminal, `markdown` for a file, and HTML inside a jinja template. A cell may be any value; None is
an empty cell. HTML escapes cells, and the terminal never reads them as markup.
"""

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from tqdm import tqdm

from limo.errors import visible
from limo.machine import is_main

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
    """A rate in units per second as text: 12.0/s, or 3 min 20 s each for slow units."""
    return f"{rate:,.1f}{unit}/s" if rate >= 0.1 else f"{clock(1 / rate)} each"


_logs: list[tuple[Path, list[str]]] = []  # log file and waiting lines of each running run, the innermost last


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Also write what the block prints to a log file, each line with its time. Of several ranks, only rank 0 writes.

    Lines are kept in memory until the file's folder exists, since a run that is refused creates no folder.
    """
    if not is_main():
        yield
        return
    _logs.append((path, []))
    try:
        _log(" ".join(sys.argv))
        yield
    except BaseException as error:
        _log(f"{type(error).__name__}: {error}")
        raise
    finally:
        _logs.pop()


def _log(text: str) -> None:
    for path, waiting in _logs[-1:]:
        waiting.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {visible(text)}\n")
        if path.parent.is_dir():
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(waiting)
            waiting.clear()


def say(text: str) -> None:
    """Print one line to standard error, and into the run's log. Of several ranks, only rank 0 prints."""
    if is_main():
        tqdm.write(visible(text), file=sys.stderr)
        sys.stderr.flush()
        _log(text)


Advance = Callable[..., None]  # reports that more units are done, with a short note to show beside them


@contextmanager
def progress(what: str, total: int | None, unit: str = "row") -> Iterator[Advance]:
    """Yield a function to call with the number of units done since the last call."""
    with (_bar if sys.stderr.isatty() and is_main() else _lines)(what, total, unit) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show a bar on the terminal. Nested bars are shown below one another."""
    width, height = shutil.get_terminal_size()  # 80 and 24 where the size is unknown
    shown = {"total": total, "desc": visible(what), "unit": f" {unit}", "file": sys.stderr}
    steady = 0.02  # the time left follows the mean of many updates: with the last few it jumps
    with tqdm(smoothing=steady, ncols=width, nrows=height, **shown) as bar:

        def advance(done: int, note: str = "", /) -> None:
            bar.set_postfix_str(visible(note), refresh=False)
            if bar.total is not None and bar.n + done > bar.total:
                bar.total = None  # a stage may add rows: then the total is unknown
            bar.update(done)

        begun = time.monotonic()
        try:
            yield advance
        finally:
            _log(f"{what}: {bar.n} {unit}s in {clock(time.monotonic() - begun)}")


@contextmanager
def _lines(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    start = last = time.monotonic()
    count = 0
    warm: tuple[float, int] | None = None  # time and count of the first advance: the rate excludes loading a model

    def show(note: str = "") -> None:
        of = total if total and count <= total else None  # a stage may add rows: then the total is unknown
        known = warm is not None and warm[1] < count != of  # at the end, the rate covers the whole work
        since, already = warm if warm and known else (start, 0)
        rate = (count - already) / max(time.monotonic() - since, 1e-9)
        left = f", {clock((of - count) / rate)} left" if of and known else ""
        took = f"{clock(time.monotonic() - start)}{left}"
        done = f"{what}: {count}{f'/{of}' if of else ''} {unit}s"
        say(", ".join(part for part in (done, pace(rate) if count else "", took, note) if part))

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


@dataclass(frozen=True, slots=True)
class Table:
    """A table: a header, and rows with the same number of cells."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: Collection[int] = ()  # columns that are aligned right
    title: str = ""  # shown on a terminal only: a page has headings

    def __html__(self) -> Markup:
        """The table in a box that scrolls sideways. jinja calls this in place of escaping the object."""
        right = Markup(" class=number")

        def line(cells: Sequence[Any], tag: str) -> Markup:
            cell = Markup(f"<{tag}%s>%s</{tag}>")
            return Markup("<tr>%s</tr>") % Markup("").join(
                cell % (right if i in self.numbers else "", _text(c)) for i, c in enumerate(cells)
            )

        body = Markup("").join(line(row, "td") for row in self.rows)
        frame = Markup("<div class=scroll tabindex=0><table><thead>%s</thead><tbody>%s</tbody></table></div>")
        return frame % (line(self.head, "th"), body)

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        rule = ["---:" if i in self.numbers else "---" for i in range(len(self.head))]
        lines = [self.head, rule, *([_text(c).replace("|", "\\|") for c in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def terminal(width: int = 120) -> Any:
    """A rich console that makes texts `visible`: as wide as the terminal, or `width` characters without one."""
    from rich.console import Console

    class Visible(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(visible(o) if isinstance(o, str) else o for o in objects), **options)

    return Visible(width=None if sys.stdout.isatty() else width, highlight=False)


def print_table(table: Table, console: Any = None) -> None:
    """Print a table to a rich console, or to the terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(table.title) if table.title else None, title_justify="left")
    for i, head in enumerate(table.head):
        shown.add_column(Text(visible(head)), justify="right" if i in table.numbers else "left")
    for row in table.rows:
        shown.add_row(*(Text(visible(_text(cell))) for cell in row))
    (console or terminal()).print(shown)


def format_metric(value: int | float | str) -> str:
    """A metric as a person reads it: 12,345 or 0.988."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value


def readable(key: str, value: Any) -> tuple[str, str]:
    """A training's result for a reader: `optimizer_bytes` and 2.5e9 become "optimizer" and "2.5 GB"."""
    name = key.removesuffix("_bytes").replace("_", " ")
    if key.endswith("_bytes") and isinstance(value, int | float):
        return name, f"{value / 1e9:,.1f} GB" if value >= 5e7 else f"{value / 1e6:,.1f} MB"
    return name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
