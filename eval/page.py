"""The pieces of an HTML page. Whatever comes from rows or completions is text and is escaped here."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 20_000  # characters of a completion outside the viewer


def text(value: Any) -> str:
    """A value as text of a page."""
    return html.escape(str(value)).replace("\x00", "\ufffd")


def percent(value: float) -> str:
    """A share with one digit, without the sign."""
    return f"{100 * value:.1f}"


def span(interval: Any) -> str:
    """An interval of shares in percent."""
    return f"{percent(interval['low'])} to {percent(interval['high'])}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> str:
    """A table; `numbers` are the columns set right. Cells are escaped."""
    right = set(numbers)

    def line(cells: Sequence[Any], tag: str) -> str:
        marked = (f"<{tag}{' class=number' if i in right else ''}>{text(c)}</{tag}>" for i, c in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<div class=scroll tabindex=0><table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table></div>"


def section(key: str, title: str, body: str) -> str:
    """A part of the page with a heading that the menu leads to; empty if its body is."""
    return f"<section id={key}><h2>{text(title)}</h2>{body}</section>" if body else ""


def folded(summary: str, body: str) -> str:
    """Something that opens on a click; `summary` is escaped, `body` is not."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def prose(value: str, limit: int = LONGEST) -> str:
    """A completion or problem, in which the page will draw the mathematics once it is seen.

    Of one longer than `limit` characters the middle is left out: how it begins and how it ends tell most.
    """
    if len(value) <= limit:
        return f"<div class=prose data-prose>{text(value)}</div>"
    half = limit // 2
    note = f"<p class=note>{len(value) - 2 * half:,} characters from the middle are left out here.</p>"
    return prose(value[:half]) + note + prose(value[-half:])


def verdict(value: str) -> str:
    """A verdict as a mark and a word, so that neither colour nor shape alone tells it."""
    sign = {"correct": "✓", "wrong": "✗", "unfinished": "…"}.get(value, "?")
    return f"<span class='verdict {text(value)}'>{sign} {text(value or 'not graded')}</span>"
