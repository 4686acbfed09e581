"""The report's part on training: curves and results of the training, and the losses that a search has tried."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.report.charts import CHOSEN, FAINT, LINE, OTHER, SERIES, chart, short
from eval.report.html import fill_template, render_mixed
from limo.console import Table, clock, readable
from limo.discover.archive import Entry, read_candidates

LABELS = {
    "loss": "loss (nats per token)",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
}
Log = Sequence[Mapping[str, Any]]


def training_section(folder: Path, entry: Mapping[str, Any]) -> str:
    """Loss, learning rate, gradient norm and speed by step, and the results. `entry` is the manifest's, or empty."""
    log = _read_log(folder / "train_log.jsonl")
    history, held = [e for e in log if "loss" in e], [e for e in log if "eval_loss" in e]
    charts = [
        chart(
            partial(_draw_curve, key=key, history=history, evals=held),
            4.4,
            2.5,
            _describe(key, history),
        )
        for key in LABELS
        if any(e.get(key) is not None for e in history)
    ]
    results = {**entry.get("results", {})}
    if results and entry.get("seconds"):
        results["time"] = clock(entry["seconds"])
    rows = [readable(key, value) for key, value in results.items() if value is not None]
    if not charts and not rows:
        return ""
    return render_mixed("training", "Training", charts=charts, tables=[Table(("", ""), rows)])


def _read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _describe(key: str, history: Sequence[Mapping[str, Any]]) -> str:
    values = [float(e[key]) for e in history if e.get(key) is not None]
    return f"{LABELS[key]} by optimizer step, from {values[0]:.3g} to {values[-1]:.3g}"


def _draw_curve(axes: Any, key: str, history: Log, evals: Log) -> None:
    """One of LABELS by optimizer step; the chart of the loss also shows held-out rows, dashed, if measured."""
    points = [(entry["step"], float(entry[key])) for entry in history if entry.get(key) is not None]  # NaN is null
    if points:
        axes.plot(*zip(*points, strict=True), color=CHOSEN, linewidth=1.6, marker="." if len(points) < 60 else None)
    held = [(entry["step"], float(entry["eval_loss"])) for entry in evals if entry["eval_loss"] is not None]
    if key == "loss" and held:
        axes.plot(*zip(*held, strict=True), color=OTHER, linestyle="--", marker="o", markersize=4)
        axes.legend(["training", "held out"], frameon=False)
    axes.set_title(LABELS[key], fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.5, linewidth=0.7)


# -- a search for losses


def discovered_section(folder: Path) -> str:
    """Fitness in the order of the search with the noise, finalists with intervals, and every loss with its text."""
    path = folder / "discovered.json"
    if not path.is_file():
        return ""
    result = dict(json.loads(path.read_text(encoding="utf-8")))
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
