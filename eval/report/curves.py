"""The report's part on training: its curves, and its results."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.report.charts import CHOSEN, OTHER, chart
from eval.report.html import render_mixed
from limo.progress import clock
from limo.tables import Table
from limo.training.card import LABELS, draw_curve, readable


def training_section(folder: Path, entry: Mapping[str, Any]) -> str:
    """Loss, learning rate, gradient norm and speed by step, and the results. `entry` is the manifest's, or empty."""
    log = _read_log(folder / "train_log.jsonl")
    history, held = [e for e in log if "loss" in e], [e for e in log if "eval_loss" in e]
    charts = [
        chart(
            partial(draw_curve, key=key, history=history, evals=held, colours=(CHOSEN, OTHER)),
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
