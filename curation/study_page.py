"""A study as tables and pictures: `study.md` beside two drawings."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from limo.data import replacing

COLOURS = {"curated": "#1f6f5c", "random": "#b4611a"}
OTHER = "#5b6470"
Found = Mapping[str, Any]


def cells(name: str, one: Found) -> list[str]:
    """A set's line: rows, tokens, accuracy of each seed, mean, difference to random and its interval."""
    gain = one["to_random"]
    by = [f"{100 * gain['difference']:+.1f}", f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"] if gain else []
    seeds = ", ".join(f"{100 * value:.1f}" for value in one["accuracy"])
    rows, tokens = round(fmean(one["rows"])), round(fmean(one["tokens"]))
    return [name, f"{rows:,}", f"{tokens:,}", seeds, f"{100 * fmean(one['accuracy']):.1f}", *(by or ["", ""])]


HEAD = ("set", "rows", "tokens seen", "seeds, %", "mean, %", "to random", "95 % interval")


def show(found: Found) -> None:
    """Print both comparisons, the curve and the verdicts."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f"untrained: {100 * found['untrained']:.1f} % of {found['problems']} problems")
    for title, lines in tables(found):
        table = Table(*HEAD, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for said in found["verdict"]:
        console.print(said)


def tables(found: Found) -> list[tuple[str, list[list[str]]]]:
    """The two comparisons, and the curve, as lines of cells under HEAD."""
    made = [
        (f"as many {equal}", [cells(name, one) for name, one in by.items()]) for equal, by in found["equal"].items()
    ]
    curve = [cells(f"{name} {size}", by[name]) for size, by in found["sizes"].items() for name in ("curated", "random")]
    return [*made, ("by size", curve)]


def write_page(folder: Path, found: Found) -> list[Path]:
    """Write `study.md` and its pictures into `folder`. Returns their paths."""
    pictures = {"equal": _draw_equal, "sizes": _draw_sizes}
    for name, draw in pictures.items():
        _saved(folder / f"{name}.svg", draw, found)
    lines = ["# Does choosing help?", "", *found["verdict"], ""]
    lines += [f"Untrained: {100 * found['untrained']:.1f} % of {found['problems']} problems.", ""]
    lines += ["![accuracy of each set](equal.svg)", "", "![accuracy by size](sizes.svg)", ""]
    for title, rows in tables(found):
        lines += [f"## {title.capitalize()}", "", "| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    page = folder / "study.md"
    with replacing(page) as file:
        file.write("\n".join(lines))
    return [page, *(folder / f"{name}.svg" for name in pictures)]


def _saved(path: Path, draw: Callable[[Any, Found], None], found: Found) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": path.name}
    with plt.rc_context(style):
        figure, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
        draw(ax, found)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _draw_equal(ax: Any, found: Found) -> None:
    """Each set's seeds as dots; its interval is that of the difference to random, whose mean stands beside it."""
    lines = [(equal, name, one) for equal, by in found["equal"].items() for name, one in by.items()]
    for place, (_, name, one) in enumerate(lines):
        _seeds(ax, one["accuracy"], [place] * len(one["accuracy"]), name, across=True)
        if gain := one["to_random"]:
            start = gain["mean"] - gain["difference"]
            ax.plot([100 * (start + gain[k]) for k in ("low", "high")], [place] * 2, color=_colour(name), linewidth=2)
    first = 0
    for by in found["equal"].values():
        mean = 100 * fmean(by["random"]["accuracy"])
        label = "" if first else "mean of random"
        ax.plot([mean] * 2, [first - 0.3, first + len(by) - 0.7], "--", color=COLOURS["random"], label=label)
        first += len(by)
    ax.axvline(100 * found["untrained"], color=OTHER, linestyle=":", label="untrained")
    ax.set_yticks(range(len(lines)), [f"{name}, as many {equal}" for equal, name, _ in lines])
    ax.invert_yaxis()
    ax.set_xlabel("% right; bars: 95 % interval of the difference to random")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _draw_sizes(ax: Any, found: Found) -> None:
    """Means by size, seeds as dots."""
    sizes = [int(size) for size in found["sizes"]]
    for name in ("curated", "random"):
        values = [found["sizes"][str(size)][name]["accuracy"] for size in sizes]
        for size, of in zip(sizes, values, strict=True):
            _seeds(ax, of, [size] * len(of), name, across=False)
        ax.plot(sizes, [100 * fmean(of) for of in values], color=_colour(name), label=name, linewidth=2)
    ax.axhline(100 * found["untrained"], color=OTHER, linestyle=":", label="untrained")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set_xlabel("chains in the set")
    ax.set_ylabel("% right")
    ax.grid(axis="y", alpha=0.3)
    ax.legend(frameon=False)


def _seeds(ax: Any, values: Sequence[float], places: Sequence[float], name: str, across: bool) -> None:
    shares = [100 * value for value in values]
    x, y = (shares, places) if across else (places, shares)
    ax.plot(x, y, "o", color=_colour(name), markersize=6, markerfacecolor="none")


def _colour(name: str) -> str:
    return COLOURS.get(name, OTHER)
