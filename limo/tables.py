"""One table, three renderings: `print_table` for a terminal, `markdown` for a file, and HTML inside a jinja template.

A cell may be any value; None is empty. HTML escapes it, and the terminal never reads it as markup.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from limo.errors import visible


@dataclass(frozen=True, slots=True)
class Table:
    """A header and rows of as many cells."""

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
    """A rich console for `visible` texts: as wide as the terminal, or `width` characters where there is none."""
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
