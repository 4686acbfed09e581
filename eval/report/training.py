"""The report's part on training: curves and results."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.report.charts import CHOSEN, OTHER, chart
from eval.report.html import render_mixed
from limo.console import Table, clock, readable

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
    """Draw one of the curves of LABELS by optimizer step. The chart of the loss also shows the held-out loss as a
    dashed line, if it was measured.
    """
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
