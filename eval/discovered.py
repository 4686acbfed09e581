"""The report's part on a search for losses: what was tried, what of it is noise, and what stood on fresh data."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.charts import CHOSEN, FAINT, LINE, OTHER, SERIES, chart, short
from eval.page import folded, section, table, text
from limo.archive import Entry, entries


def discovered_section(folder: Path) -> str:
    """Fitness in order with the noise, finalists with intervals, their curves, and every loss with its text."""
    path = folder / "discovered.json"
    if not path.is_file():
        return ""
    found = dict(json.loads(path.read_text(encoding="utf-8")))
    tried = entries(folder)
    half, mean = found["noise"]["half"], found["noise"]["mean"]
    said = (
        f"{len(found['tried'])} losses in their order; the band is {found['baseline']} with {found['noise']['n']} "
        f"seeds, {mean:.4f} plus and minus {half:.4f}: inside it nothing differs by more than noise"
    )
    search, charts = chart(partial(_draw_search, found=found), 9.0, 3.4, said), list[str]()
    if found["confirmed"]:
        about = f"Finalists on fresh data, difference to {found['baseline']} with intervals that hold together at 95 %"
        charts.append(chart(partial(_draw_finalists, found=found), 5.2, 0.9 + 0.55 * len(found["confirmed"]), about))
    curves = _curves(tried, [found["baseline"], *(gain["name"] for gain in found["confirmed"])])
    if curves:
        charts.append(chart(partial(_draw_curves, curves=curves), 5.2, 3.0, "Loss over rho of the finalists"))
    body = f"<p><b>{text(found['verdict'])}</b></p><p class=note>{text(said)}.</p>"
    body += f"{search}<div class=charts>{''.join(charts)}</div>" + _finalists(found) + _tried(found, tried)
    return section("discovered", "Losses", body)


def _draw_search(ax: Any, found: Mapping[str, Any]) -> None:
    half, mean = found["noise"]["half"], found["noise"]["mean"]
    ax.axhspan(mean - half, mean + half, color=LINE, zorder=0)
    ax.axhline(mean, color=FAINT, linewidth=1)
    for known, (colour, mark), label in ((True, SERIES[0], "known"), (False, SERIES[1], "new")):
        mine = [one for one in found["tried"] if one["known"] == known]
        ax.plot([o["number"] for o in mine], [o["fitness"] for o in mine], mark, color=colour, label=label)
    for one in found["refused"]:
        ax.plot([one["number"]], [0.02], "x", color=FAINT, transform=ax.get_xaxis_transform(), clip_on=False)
    for one in found["tried"]:
        ax.annotate(
            short(one["name"]), (one["number"], one["fitness"]), (0, 6), textcoords="offset points",
            ha="center", fontsize=7, color=FAINT,
        )  # fmt: skip
    ax.set_xlabel("proposal (x: refused)")
    ax.set_ylabel("fitness")
    ax.margins(y=0.2)
    ax.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _draw_finalists(ax: Any, found: Mapping[str, Any]) -> None:
    for place, gain in enumerate(found["confirmed"]):
        colour, mark = SERIES[1] if gain["beats"] else SERIES[0]
        sides = [[gain["difference"] - gain["low"]], [gain["high"] - gain["difference"]]]
        ax.errorbar([gain["difference"]], [place], xerr=sides, fmt=mark, color=colour, capsize=3, linewidth=1.8)
    ax.axvline(0, color=FAINT, linewidth=1)
    ax.set_yticks(range(len(found["confirmed"])), [short(gain["name"]) for gain in found["confirmed"]])
    ax.set_ylim(len(found["confirmed"]) - 0.4, -0.6)
    ax.set_xlabel(f"fitness minus that of {found['baseline']}, fresh data")
    ax.grid(axis="x")


def _curves(tried: Sequence[Entry], names: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """rho and loss, from 0 at rho = 0, of losses whose curve was kept, near the start."""
    found = {}
    for one in tried:
        curve = one.report.get("curve")
        if one.name not in names or not curve:
            continue
        reach = max(curve["rho"]) / 4
        points = [
            (r, v) for r, v in zip(curve["rho"], curve["value"], strict=True) if abs(r) <= reach and v is not None
        ]
        start = min(points, key=lambda point: abs(point[0]))[1]
        slope = abs(one.report.get("slope") or 0) or 1.0  # two losses that differ by a factor teach the same
        found[one.name] = ([r for r, _ in points], [(v - start) / slope for _, v in points])
    return found


def _draw_curves(ax: Any, curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
    styles = ("-", "--", "-.", ":")
    for number, (name, (rho, value)) in enumerate(curves.items()):
        colour = (OTHER, CHOSEN, *(c for c, _ in SERIES[2:]))[number % 4]
        ax.plot(rho, value, styles[number % 4], color=colour, label=short(name), linewidth=1.8)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set_xlabel("rho (nats)")
    ax.set_ylabel("loss, slope at 0 as 1")
    ax.legend(frameon=False, fontsize=9)


def _finalists(found: Mapping[str, Any]) -> str:
    if not found["confirmed"]:
        return ""
    rows = [(found["baseline"], f"{found['baseline_confirmed']:.4f}", "", "", "")]
    rows += [
        (
            gain["name"],
            f"{gain['mean']:.4f}",
            f"{gain['difference']:+.4f}",
            f"{gain['low']:+.4f} to {gain['high']:+.4f}",
            "yes" if gain["beats"] else "no",
        )
        for gain in found["confirmed"]
    ]
    head = ("finalist", "fitness on fresh data", "difference", "interval", f"beats {found['baseline']}")
    return table(head, rows, (1, 2, 3))


def _tried(found: Mapping[str, Any], tried: Sequence[Entry]) -> str:
    """Every loss with its number and text; those that were refused with the reason."""
    half, mean = found["noise"]["half"], found["noise"]["mean"]
    rows = []
    for one in tried:
        by = None if one.fitness is None else one.fitness - mean
        shown = ("", "", one.why_not) if one.fitness is None or by is None else (
            f"{one.fitness:.4f}", f"{by:+.4f}", "above noise" if by > half else "below noise" if by < -half else "noise"
        )  # fmt: skip
        rows.append((one.number, one.name, "known" if one.known else "new", *shown))
    texts = "".join(
        folded(f"{one.number} {one.name}", f"<p>{text(one.proposal.thought)}</p><pre>{text(one.proposal.code)}</pre>")
        for one in tried
    )
    return table(("no.", "loss", "", "fitness", "to the baseline", ""), rows, (0, 3, 4)) + texts
