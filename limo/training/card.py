"""The model card and the curves of a training: what was trained on what, and how it went."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from limo.run import Step
from limo.training.settings import Training

CARD = """\
---
{{ card_data }}
---

# {{ name }}

`{{ base }}`, fine-tuned on {{ rows }} {{ unit }} of `{{ data }}` (SHA-256 `{{ digest }}`).
{% if unit == "pairs" %}It was trained to prefer the chosen completion of each to the rejected one.
{% else %}The loss covered only the completions and the ends of their turns.
{% endif %}
| | |
|---|---|
{% for name, value in results %}| {{ name }} | {{ value }} |
{% endfor %}
![loss, learning rate, gradient norm and speed by step](curves.png)

## Recipe

```yaml
{{ recipe }}```

Made with {{ versions }}{{ commit }}.
"""
LABELS = {
    "loss": "loss (nats per token)",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
}
Log = Sequence[Mapping[str, Any]]


def write_card(step: Step, settings: Training, history: Log, evals: Log, unit: str) -> None:
    """Write README.md and curves.png into the run's model folder, from its settings, results and log."""
    from huggingface_hub import ModelCard, ModelCardData

    model, base = step.folder / "model", settings.model
    draw_curves(history, evals, model / "curves.png")
    data = ModelCardData(
        library_name="peft" if (model / "adapter_config.json").is_file() else "transformers",
        base_model=base if "/" in base and not base.startswith((".", "/", "~", "runs/")) else None,
        tags=["limo", "dpo" if unit == "pairs" else "sft", "trl"],
        pipeline_tag="text-generation",
    )
    shown = {key: value for key, value in asdict(settings).items() if value is not None and key not in ("look", "out")}
    ModelCard.from_template(
        data,
        template_str=CARD,
        name=step.folder.name,
        base=base,
        rows=f"{step.results['rows']:,}",
        unit=unit,
        data=Path(settings.data).name,
        digest=step.entry["inputs"].get(settings.data, ""),
        results=[readable(*item) for item in step.results.items()],
        recipe=yaml.safe_dump(shown, sort_keys=False, allow_unicode=True),
        versions=", ".join(f"{name} {number}" for name, number in step.entry["versions"].items()),
        commit=f"; code at commit {step.entry['commit']}" if step.entry.get("commit") else "",
    ).save(model / "README.md")


def draw_curves(history: Log, evals: Log, file: Path) -> None:
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
    axes: Any, key: str, history: Log, evals: Log, colours: tuple[str, str] = ("#0072b2", "#d55e00")
) -> None:
    """One of LABELS by optimizer step; beside the loss that of held-out rows, dashed, where it was measured."""
    points = [(entry["step"], float(entry[key])) for entry in history if entry.get(key) is not None]  # NaN is null
    if points:
        axes.plot(*zip(*points, strict=True), color=colours[0], linewidth=1.6, marker="." if len(points) < 60 else None)
    held = [(entry["step"], float(entry["eval_loss"])) for entry in evals if entry["eval_loss"] is not None]
    if key == "loss" and held:
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
    name = key.removesuffix("_bytes").replace("_", " ")
    if key.endswith("_bytes") and isinstance(value, int | float):
        return name, f"{value / 1e9:,.1f} GB" if value >= 5e7 else f"{value / 1e6:,.1f} MB"
    return name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
