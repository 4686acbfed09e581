"""What is known of the choice itself: which flaws each score notices, and whether a choice beats random chains."""

import json
from pathlib import Path
from typing import Any

from eval.report.html import render_mixed
from limo.tables import Table

ABOUT = (
    "Verified chains got flaws that keep the answer right. A cell is how often a score prefers the untouched chain, "
    "in % of pairs with the 95 % interval: 50 is blind, less prefers the flaw."
)


def choice_section(folder: Path) -> str:
    """The tables of `curation/probe.py` and `curation/tournament.py`, as far as they ran."""
    probe, verdict = _read(folder / "probe.json"), _read(folder / "tournament" / "verdict.json")
    tables, sentences, notes = list[Table](), list[str](), list[str]()
    if verdict:
        sentences.append(verdict["sentence"])
        tables.append(_finalists(verdict))
    if probe:
        notes.append(ABOUT)
        tables.append(_probe_table(probe["scores"]))
    return (
        render_mixed("choice", "Does the choice help?", sentences=sentences, notes=notes, tables=tables)
        if tables
        else ""
    )


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _probe_table(scores: dict[str, dict[str, dict[str, Any]]]) -> Table:
    flaws = list(dict.fromkeys(flaw for by in scores.values() for flaw in by))
    rows = [(name, *(_decided(by.get(flaw)) for flaw in flaws)) for name, by in scores.items()]
    return Table(("score", *flaws), rows, range(1, len(flaws) + 1))


def _decided(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    return f"{100 * found['share']:.0f} ({100 * found['low']:.0f}-{100 * found['high']:.0f})"


def _finalists(verdict: dict[str, Any]) -> Table:
    rows = [
        (f["name"], f"{100 * f['mean']:+.1f}", f"{100 * f['low']:+.1f} to {100 * f['high']:+.1f}", f["blocks"])
        for f in verdict["finalists"]
    ]
    return Table(("finalist", "to random, points", "95 % interval", "blocks"), rows, (1, 2, 3))
