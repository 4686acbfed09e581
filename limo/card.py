"""The model card and the curves of a training: what was learned from what, and how it went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from limo.data import replacing

LEARNED = {
    "chains": "Only the completions and the ends of their turns were learned.",
    "pairs": "It was trained to prefer the chosen completion of each to the rejected one.",
}
LABELS = {
    "loss": "loss (nats per token)",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
}


def write_card(
    folder: Path,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    evals: Sequence[Mapping[str, Any]],
    entry: Mapping[str, Any],
    unit: str,
) -> None:
    """README.md and curves.png in `folder`/model, from the run's settings, results, log and manifest entry."""
    model = folder / "model"
    draw_curves(history, evals, model / "curves.png")
    base = str(settings["model"])
    known = {"library_name": "peft" if (model / "adapter_config.json").is_file() else "transformers"}
    known |= {"base_model": base} if "/" in base and not base.startswith((".", "/", "~", "runs/")) else {}
    tags = ["limo", "dpo" if unit == "pairs" else "sft", "trl"]
    head = yaml.safe_dump({**known, "tags": tags, "pipeline_tag": "text-generation"}, sort_keys=False)
    data = {name: digest for name, digest in entry["inputs"].items() if name == settings["data"]}
    rows = "\n".join(f"| {name} | {value} |" for name, value in (readable(*item) for item in results.items()))
    versions = ", ".join(f"{name} {number}" for name, number in entry["versions"].items())
    shown = {k: v for k, v in settings.items() if v is not None and k not in ("look", "trust_remote_code")}
    recipe = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    digest = next(iter(data.values()), "")
    text = f"""---
{head}---

# {folder.name}

`{base}`, fine-tuned on {results["rows"]:,} {unit} of `{Path(settings["data"]).name}` (SHA-256 `{digest}`).
{LEARNED[unit]}

| | |
|---|---|
{rows}

![loss, learning rate, gradient norm and speed by step](curves.png)

## Recipe

```yaml
{recipe}```

Made with {versions}{f"; code at commit {entry['commit']}" if entry.get("commit") else ""}.
"""
    with replacing(model / "README.md") as file:
        file.write(text)


def draw_curves(history: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Loss, learning rate, gradient norm and speed by optimizer step, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(2, 2).flat, LABELS, strict=True):
        draw_curve(axes, key, history, evals)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def draw_curve(
    axes: Any,
    key: str,
    history: Sequence[Mapping[str, Any]],
    evals: Sequence[Mapping[str, Any]],
    colours: tuple[str, str] = ("#0072b2", "#d55e00"),
) -> None:
    """One of LABELS by optimizer step; beside the loss that of held-out rows, dashed, where it was measured."""
    points = [(entry["step"], float(entry[key])) for entry in history if entry.get(key) is not None]  # NaN is null
    if points:
        axes.plot(*zip(*points, strict=True), color=colours[0], linewidth=1.6, marker="." if len(points) < 60 else None)
    if key == "loss" and any(entry["eval_loss"] is not None for entry in evals):
        held = [(entry["step"], float(entry["eval_loss"])) for entry in evals if entry["eval_loss"] is not None]
        axes.plot(*zip(*held, strict=True), color=colours[1], linestyle="--", marker="o", markersize=4)
        axes.legend(["training", "held out"], frameon=False)
    axes.set_title(LABELS[key], fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.5, linewidth=0.7)


def readable(key: str, value: Any) -> tuple[str, str]:
    """A training's result for a reader: its name in words, and its value with the unit that the name ends in.

    >>> readable("optimizer_bytes", 2_500_000_000)
    ('optimizer', '2.5 GB')
    """
    if key.endswith("_bytes") and isinstance(value, int | float):
        return key.removesuffix("_bytes").replace(
            "_", " "
        ), f"{value / 1e9:,.1f} GB" if value >= 5e7 else f"{value / 1e6:,.1f} MB"
    return key.replace("_", " "), _said(value)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {number:,}" for key, number in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
