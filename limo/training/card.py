"""The model card of a training: what was trained on what, and how it went."""

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
## Recipe

```yaml
{{ recipe }}```

Made with {{ versions }}{{ commit }}.
"""


def write_card(step: Step, settings: Training, unit: str) -> None:
    """Write README.md into the run's model folder, from its settings and results."""
    from huggingface_hub import ModelCard, ModelCardData

    model, base = step.folder / "model", settings.model
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


def readable(key: str, value: Any) -> tuple[str, str]:
    """A training's result for a reader: its name in words, and its value with the unit that the name ends in.

    >>> readable("optimizer_bytes", 2_500_000_000)
    ('optimizer', '2.5 GB')
    """
    name = key.removesuffix("_bytes").replace("_", " ")
    if key.endswith("_bytes") and isinstance(value, int | float):
        return name, f"{value / 1e9:,.1f} GB" if value >= 5e7 else f"{value / 1e6:,.1f} MB"
    return name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
