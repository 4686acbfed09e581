"""The plan of a training as tables."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from limo.progress import clock

GIB = 2**30


def show(name: str, dtype: str, found: Mapping[str, Any], gpus: Mapping[str, float]) -> None:
    """Print what `limo.plan.estimated` found: memory by setting, hours and dollars, and the cheapest that fits.

    Args: `name` of the model and `dtype` as the recipe has them; `gpus` are names and dollars an hour.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    model, data = found["model"], found["data"]
    trained = f", {model['trainable'] / 1e6:,.1f} M trained" if model["trainable"] < model["parameters"] else ""
    console.print(
        f"{name}: {_count(model['parameters'])} parameters{trained}. {data['count']:,} rows of "
        f"{data['mean']:,.0f} tokens on average; {data['tokens_per_step']:,.0f} tokens a step, {data['steps']:,} steps",
        soft_wrap=True,
        markup=False,
    )
    if impossible := found["impossible"]["devices"]:
        numbers = ", ".join(map(str, impossible))
        console.print(f"Not possible with {numbers} GPUs: {found['impossible']['why']}", soft_wrap=True, markup=False)
    if found["settings"]:
        console.print(_memory(dtype, found["settings"], gpus))
        if found["costs"]:
            console.print(_bill(found["costs"]))
        disk = found["disk"]
        if disk["checkpoints"]:
            whole = disk["checkpoint"] * disk["checkpoints"] / 1e9
            console.print(
                f"Disk: at most {disk['checkpoints']} checkpoints of {disk['checkpoint'] / 1e9:,.1f} GB, together "
                f"{whole:,.0f} GB",
                soft_wrap=True,
                markup=False,
            )
        console.print(_last_line(found["recommendation"]), soft_wrap=True, markup=False)


def _count(numbers: int) -> str:
    return f"{numbers / 1e9:,.2f} B" if numbers >= 1e9 else f"{numbers / 1e6:,.2f} M"


def _memory(dtype: str, settings: Sequence[Mapping[str, Any]], gpus: Mapping[str, float]) -> Any:
    from rich.table import Table

    parts = ("weights", "gradients", "optimizer", "activations", "buffers", "total", "host")
    heads = ("weights", "grads", "optim", "activ.", "buffers", "total", "CPU")
    table = Table(
        title="GiB on each GPU at its fullest, CPU: of a machine; ✓ fits", title_justify="left", padding=(0, 0)
    )
    table.add_column("sharding")
    for head in ("GPUs", *heads, *gpus):
        table.add_column(head, justify="right")
    last = None
    for s in settings:
        if last not in (None, s["devices"]):
            table.add_section()
        last = s["devices"]
        sizes = [f"{s[part] / GIB:,.1f}" if part != "host" or s[part] else "" for part in parts]
        name = s["sharding"] + (f" ({s['dtype']})" if s["dtype"] != dtype else "")
        table.add_row(name, str(s["devices"]), *sizes, *("✓" if s["fits"][name] else "-" for name in gpus))
    return table


def _bill(costs: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="What fits first, the simplest before the others", title_justify="left")
    for head in ("GPU", "GPUs", "sharding", "busy %", "s a step", "time", "$"):
        table.add_column(head, justify="left" if head in ("GPU", "sharding") else "right")
    for c in costs:
        least = "≥ " if c["sharding"].endswith("_offload") else ""  # the CPU's part of a step comes on top
        numbers = (f"{c['seconds_per_step']:,.3g}", clock(3600 * c["hours"]), f"{c['dollars']:,.2f}")
        filled = f"{100 * c['busy']:.0f}"
        table.add_row(c["gpu"], str(c["devices"]), c["sharding"], filled, *(least + n for n in numbers))
    return table


def _last_line(chosen: Mapping[str, Any] | None) -> str:
    if chosen is None:
        return "Nothing fits: take more or larger GPUs, a smaller train.packing, or train.lora='{r: 16}'"
    where = f" on each of {chosen['nodes']} machines" if chosen["nodes"] > 1 else ""
    return f"Take {chosen['settings']}{where} ({chosen['devices']} x {chosen['gpu']})"
