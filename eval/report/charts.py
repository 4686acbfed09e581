"""Charts as SVG within a page, drawn by matplotlib.

The charts follow the page into dark mode and print, since their colours are placeholders for variables of
`browser/report.css`. The colours of data are those of Okabe and Ito, which colour-blind readers can distinguish; shape
or hatching always repeats the meaning of a colour.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

INK, FAINT, LINE, CHOSEN, OTHER, THIRD, FOURTH, GHOST = (f"#01020{n}" for n in range(8))
VARIABLES = {INK: "ink", FAINT: "faint", LINE: "line", CHOSEN: "chosen", OTHER: "other", THIRD: "third",
             FOURTH: "fourth", GHOST: "ghost"}  # fmt: skip
SERIES = ((OTHER, "o"), (CHOSEN, "s"), (THIRD, "^"), (FOURTH, "D"), (INK, "v"), (FAINT, "P"), (OTHER, "X"))
FEW = 9  # different values up to which each has its own bar
LABEL = 28  # characters of a label
GROUPS = "figure|axes|patch|text|line2d|legend|matplotlib|xtick|ytick|PathCollection|LineCollection"

RC = {
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "text.parse_math": False,  # a source named a$b$ is not a formula
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.transparent": True,
    "hatch.linewidth": 0.7,
}


def chart(draw: Callable[[Any], None], width: float, height: float, label: str) -> Markup:
    """An inline SVG of `width` x `height` inches. `label` describes it for screen readers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({**RC, "svg.hashsalt": label}):
        figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
        draw(ax)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        plt.close(figure)
    svg = written.getvalue()
    wide = " class=wide tabindex=0" if width > 6 else ""  # on a phone it scrolls instead of shrinking
    return Markup(f"<figure{wide}>{_theme(svg[svg.index('<svg') :], label)}</figure>")


def _theme(svg: str, label: str) -> str:
    """Replace the colours by the page's variables, and make ids unique on the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf' id="(?:{GROUPS})[^"]*"', "", svg)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def short(value: Any) -> str:
    """Shorten a label so that it leaves room for the chart."""
    line = " ".join(str(value).split())
    return line if len(line) <= LABEL else line[: LABEL - 1] + "…"


def draw_distribution(ax: Any, chosen: Sequence[float], others: Sequence[float], label: str, beside: str) -> None:
    """Draw the distributions of two groups, as shares of each group: the chosen rows, and others that `beside`
    names.
    """
    import numpy as np

    both = np.concatenate([np.asarray(chosen, float), np.asarray(others, float)])
    values = np.unique(both)
    if len(values) <= FEW:  # pass rates of few attempts
        names = {f"{value:.3g}": value for value in values}
        first, second = ({n: sum(x == v for x in group) for n, v in names.items()} for group in (chosen, others))
        return draw_kinds(ax, first, second, label, beside)
    edges = np.histogram_bin_edges(both, bins=18)
    each = [np.full(len(group), 100 / max(len(group), 1)) for group in (chosen, others)]
    ax.hist(chosen, edges, weights=each[0], color=CHOSEN, label=f"chosen ({len(chosen):,})")
    ax.hist(others, edges, weights=each[1], histtype="step", color=OTHER, linewidth=1.8, linestyle="--",
            label=f"{beside} ({len(others):,})")  # fmt: skip
    return _of_groups(ax, label)


def draw_kinds(ax: Any, chosen: Mapping[str, int], others: Mapping[str, int], label: str, beside: str) -> None:
    """Draw the shares of each kind among the chosen rows and among the others, side by side."""
    names = list(dict.fromkeys([*chosen, *others]))
    for shift, group, who, look in (
        (-0.2, chosen, "chosen", {"color": CHOSEN}),
        (0.2, others, beside, {"facecolor": "none", "edgecolor": OTHER, "hatch": "////"}),
    ):
        total = sum(group.values())
        shares = [100 * group.get(name, 0) / max(total, 1) for name in names]
        ax.bar([at + shift for at in range(len(names))], shares, 0.38, label=f"{who} ({total:,})", **look)
    crowded = sum(map(len, names)) > 30
    ax.set_xticks(range(len(names)), [short(name) for name in names], rotation=35 if crowded else 0,
                  ha="right" if crowded else "center")  # fmt: skip
    _of_groups(ax, label)


def _of_groups(ax: Any, label: str) -> None:
    ax.set_title(label)
    ax.set_ylabel("% of each group")
    ax.grid(axis="y")
    ax.margins(y=0.25)
    ax.legend(frameon=False, fontsize=9, loc="upper right")


def draw_intervals(
    ax: Any,
    names: Sequence[str],
    series: Mapping[str, Sequence[Mapping[str, Any] | None]],
) -> None:
    """Draw shares with their intervals, in %: a line for each name, a mark for each series.

    Where a share is the mean of several trainings, each of them is a tick below the mark.
    """
    for i, (label, values) in enumerate(series.items()):
        colour, mark = SERIES[i % len(SERIES)]
        shift = (i - (len(series) - 1) / 2) * min(0.26, 1 / len(series))
        points = [(n + shift, v) for n, v in enumerate(values) if v is not None]
        ax.errorbar(
            [100 * v["mean"] for _, v in points],
            [place for place, _ in points],
            xerr=[
                [100 * (v["mean"] - v["low"]) for _, v in points],
                [100 * (v["high"] - v["mean"]) for _, v in points],
            ],
            fmt=mark,
            color=colour,
            markersize=7,
            linewidth=1.8,
            capsize=3,
        )
        each = [
            (100 * one, place + 0.07)
            for place, v in points
            for one in v.get("by_training", ())
            if len(v["by_training"]) > 1
        ]
        ax.plot([x for x, _ in each], [y for _, y in each], "|", color=colour, markersize=9, markeredgewidth=1.5)
        ax.plot([], [], mark, color=colour, markersize=7, label=short(label))
    ax.set_yticks(range(len(names)), [short(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(-2, 102)
    several = any(v and len(v.get("by_training", ())) > 1 for values in series.values() for v in values)
    ax.set_xlabel("% correct, with 95 % interval" + ("; a tick is one training" if several else ""))
    ax.grid(axis="x")
    ax.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series))


def draw_funnel(ax: Any, stages: Sequence[str], left: Sequence[int], notes: Sequence[str]) -> None:
    """Draw a bar for each stage: the rows that are left, with the dropped rows as its hatched end.

    Bars count problems where they can be counted: a stage that adds chains to a problem does not add problems.
    """
    most = max([*left, 1])
    before = [left[0], *left[:-1]]
    places = range(len(stages))
    lost = [max(b - a, 0) for a, b in zip(left, before, strict=True)]
    idle = [not note and not gone for note, gone in zip(notes, lost, strict=True)]
    seen = [max(count, most * 0.002 if count else 0) for count in left]  # one row of a million is still a line
    bars = ax.barh(places, seen, color=CHOSEN, height=0.66)
    for bar, nothing in zip(bars, idle, strict=True):
        bar.set_alpha(0.5 if nothing else 1)
    ax.barh(places, lost, left=left, facecolor="none", edgecolor=OTHER, hatch="////", height=0.66, linewidth=0)
    for place, count, gone, note in zip(places, left, lost, notes, strict=True):
        ax.text((count + gone) + most * 0.012, place, f"{count:,}", va="center", fontweight="bold")
        ax.text(most * (1.06 + 0.038 * len(f"{most:,}")), place, note, va="center", color=FAINT, fontsize=9)
    ax.set_yticks(places, [short(name) for name in stages])
    ax.set_ylim(len(stages) - 0.4, -0.6)
    ax.set_xlim(0, most * 2.55)
    ax.xaxis.set_visible(False)
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.tick_params(left=False)
