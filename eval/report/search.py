"""The report's part on a search for losses: what was tried, and the finalists."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.report.charts import FAINT, LINE, SERIES, chart, short
from eval.report.html import fill_template
from limo.console import Table
from limo.discover.archive import Entry, read_candidates


def discovered_section(folder: Path) -> str:
    """The section on a search for losses: fitness in the order of the search with its noise, finalists with intervals,
    and every loss with its text.
    """
    result = dict(json.loads((folder / "discovered.json").read_text(encoding="utf-8")))
    tried = read_candidates(folder)
    half, mean = result["noise"]["half"], result["noise"]["mean"]
    description = (
        f"{len(result['tried'])} losses in their order; the band is {result['baseline']} with {result['noise']['n']} "
        f"seeds, {mean:.4f} plus and minus {half:.4f}: inside it nothing differs by more than noise"
    )
    search = chart(partial(_draw_search, result=result), 9.0, 3.4, description)
    return fill_template(
        "discovered.html",
        key="discovered",
        title="Losses",
        verdict=result["verdict"],
        description=description,
        search=search,
        finalists=_finalists(result),
        tried=_tried(result, tried),
        losses=tried,
    )


def _draw_search(ax: Any, result: Mapping[str, Any]) -> None:
    half, mean = result["noise"]["half"], result["noise"]["mean"]
    ax.axhspan(mean - half, mean + half, color=LINE, zorder=0)
    ax.axhline(mean, color=FAINT, linewidth=1)
    for known, (colour, mark), label in ((True, SERIES[0], "known"), (False, SERIES[1], "new")):
        mine = [one for one in result["tried"] if one["known"] == known]
        ax.plot([o["number"] for o in mine], [o["fitness"] for o in mine], mark, color=colour, label=label)
    for one in result["refused"]:
        ax.plot([one["number"]], [0.02], "x", color=FAINT, transform=ax.get_xaxis_transform(), clip_on=False)
    for one in result["tried"]:
        ax.annotate(
            short(one["name"]), (one["number"], one["fitness"]), (0, 6), textcoords="offset points",
            ha="center", fontsize=7, color=FAINT,
        )  # fmt: skip
    ax.set_xlabel("proposal (x: refused)")
    ax.set_ylabel("fitness")
    ax.margins(y=0.2)
    ax.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _finalists(result: Mapping[str, Any]) -> Table:
    baseline = result.get("baseline_confirmed")
    rows = [(result["baseline"], "" if baseline is None else f"{baseline:.4f}", "", "", "")]
    rows += [
        (
            gain["name"],
            f"{gain['mean']:.4f}",
            f"{gain['difference']:+.4f}",
            f"{gain['low']:+.4f} to {gain['high']:+.4f}",
            "yes" if gain["beats"] else "no",
        )
        for gain in result["confirmed"]
    ]
    head = ("finalist", "fitness on fresh data", "difference", "interval", f"beats {result['baseline']}")
    return Table(head, rows, (1, 2, 3))


def _tried(result: Mapping[str, Any], tried: Sequence[Entry]) -> Table:
    """A table of all losses, each with its fitness, or with the reason why it was refused."""
    half, mean = result["noise"]["half"], result["noise"]["mean"]
    rows = []
    for one in tried:
        by = None if one.fitness is None else one.fitness - mean
        shown = ("", "", one.why_not) if one.fitness is None or by is None else (
            f"{one.fitness:.4f}", f"{by:+.4f}", "above noise" if by > half else "below noise" if by < -half else "noise"
        )  # fmt: skip
        rows.append((one.number, one.name, "known" if one.known else "new", *shown))
    return Table(("no.", "loss", "", "fitness", "to the baseline", ""), rows, (0, 3, 4))
