"""The report's part on a search for losses: the losses that were tried, the noise, and the results on fresh data."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.report.charts import CHOSEN, FAINT, LINE, OTHER, SERIES, chart, short
from eval.report.html import render
from limo.discover.archive import Entry, read_entries
from limo.tables import Table


def discovered_section(folder: Path) -> str:
    """Fitness in order with the noise, finalists with intervals, their curves, and every loss with its text."""
    path = folder / "discovered.json"
    if not path.is_file():
        return ""
    result = dict(json.loads(path.read_text(encoding="utf-8")))
    tried = read_entries(folder)
    half, mean = result["noise"]["half"], result["noise"]["mean"]
    description = (
        f"{len(result['tried'])} losses in their order; the band is {result['baseline']} with {result['noise']['n']} "
        f"seeds, {mean:.4f} plus and minus {half:.4f}: inside it nothing differs by more than noise"
    )
    search, charts = chart(partial(_draw_search, result=result), 9.0, 3.4, description), list[Markup]()
    if result["confirmed"]:
        about = f"Finalists on fresh data, difference to {result['baseline']} with intervals that hold together at 95 %"
        charts.append(chart(partial(_draw_finalists, result=result), 5.2, 0.9 + 0.55 * len(result["confirmed"]), about))
    curves = _curves(tried, [result["baseline"], *(gain["name"] for gain in result["confirmed"])])
    if curves:
        charts.append(chart(partial(_draw_curves, curves=curves), 5.2, 3.0, "Loss over rho of the finalists"))
    return render(
        "discovered.html",
        key="discovered",
        title="Losses",
        verdict=result["verdict"],
        description=description,
        search=search,
        finalist_charts=charts,
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


def _draw_finalists(ax: Any, result: Mapping[str, Any]) -> None:
    for place, gain in enumerate(result["confirmed"]):
        colour, mark = SERIES[1] if gain["beats"] else SERIES[0]
        sides = [[gain["difference"] - gain["low"]], [gain["high"] - gain["difference"]]]
        ax.errorbar([gain["difference"]], [place], xerr=sides, fmt=mark, color=colour, capsize=3, linewidth=1.8)
    ax.axvline(0, color=FAINT, linewidth=1)
    ax.set_yticks(range(len(result["confirmed"])), [short(gain["name"]) for gain in result["confirmed"]])
    ax.set_ylim(len(result["confirmed"]) - 0.4, -0.6)
    ax.set_xlabel(f"fitness minus that of {result['baseline']}, fresh data")
    ax.grid(axis="x")


def _curves(tried: Sequence[Entry], names: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """rho and loss, from 0 at rho = 0, of losses whose curve was kept, near the start."""
    result = {}
    for one in tried:
        curve = one.checks.curve if one.checks else {}
        if one.name not in names or not one.checks or not curve:
            continue
        every = [(r, v) for r, v in zip(curve["rho"], curve["value"], strict=True) if r is not None and v is not None]
        reach = max(r for r, _ in every) / 4
        points = [(r, v) for r, v in every if abs(r) <= reach]
        start = min(points, key=lambda point: abs(point[0]))[1]
        slope = abs(one.checks.slope or 0) or 1.0  # losses that differ by a factor train alike
        result[one.name] = ([r for r, _ in points], [(v - start) / slope for _, v in points])
    return result


def _draw_curves(ax: Any, curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
    styles = ("-", "--", "-.", ":")
    for number, (name, (rho, value)) in enumerate(curves.items()):
        colour = (OTHER, CHOSEN, *(c for c, _ in SERIES[2:]))[number % 4]
        ax.plot(rho, value, styles[number % 4], color=colour, label=short(name), linewidth=1.8)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set_xlabel("rho (nats)")
    ax.set_ylabel("loss, slope at 0 as 1")
    ax.legend(frameon=False, fontsize=9)


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
    """Every loss with its fitness; those that were refused with the reason."""
    half, mean = result["noise"]["half"], result["noise"]["mean"]
    rows = []
    for one in tried:
        by = None if one.fitness is None else one.fitness - mean
        shown = ("", "", one.why_not) if one.fitness is None or by is None else (
            f"{one.fitness:.4f}", f"{by:+.4f}", "above noise" if by > half else "below noise" if by < -half else "noise"
        )  # fmt: skip
        rows.append((one.number, one.name, "known" if one.known else "new", *shown))
    return Table(("no.", "loss", "", "fitness", "to the baseline", ""), rows, (0, 3, 4))
