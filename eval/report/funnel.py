"""The report's part on curation: the funnel, and the chosen rows beside the dropped ones."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from markupsafe import Markup

from eval.report.charts import chart, draw_distribution, draw_funnel, draw_shares
from eval.report.curated import Curated, Tally
from eval.report.html import percent, render, render_mixed
from limo.tables import Table, format_metric

MEASURES = {
    "pass_rate": "Difficulty: pass rate of the attempts",
    "score": "Score",
    "tokens": "Length of the chain, tokens",
    "length": "Length of the chain, words",
    "characters": "Length of the chain, characters",
}
LENGTHS = ("tokens", "length", "characters")  # the first that the rows have is shown
KINDS_SHOWN = 14  # values of a kind in a chart
RARE = 0.01  # share of all rows below which a value that was never chosen is in the table only


def funnel_section(curated: Curated) -> str:
    """The funnel as a picture and as a table."""
    funnel = curated.funnel
    if not funnel:
        return ""
    left, unit = _left(curated)
    notes = []
    for line, count in zip(funnel, left, strict=True):
        main = next(iter(line["reasons"].items()), None)
        more = line["out"] > count and line["out"] != line["in"]
        several = f"{line['out']:,} rows" if more else ""
        gone = f"{main[1]:,} {main[0]}" if main else ""
        notes.append("; ".join(part for part in (several, gone) if part)[:60])
    picture = chart(
        partial(draw_funnel, stages=[line["stage"] for line in funnel], left=left, notes=notes),
        8,
        0.4 + 0.3 * len(funnel),
        f"{unit} left after each stage, from {left[0]:,} to {left[-1]:,}",
    )
    metrics = [
        (line["stage"], name, format_metric(value))
        for line in funnel
        for name, value in line.get("metrics", {}).items()
    ]
    return render(
        "funnel.html",
        key="funnel",
        title="Funnel",
        unit=unit,
        picture=picture,
        table=_funnel_table(curated),
        metrics=Table(("stage", "metric", "value"), metrics, (2,)),
    )


def _left(curated: Curated) -> tuple[list[int], str]:
    """What is left after each stage: problems, or rows for a run that mines its problems or cannot count them."""
    if _counts_problems(curated) and not curated.found:
        return curated.problems, "Problems"
    return [line["out"] for line in curated.funnel], "Rows"


def _counts_problems(curated: Curated) -> bool:
    """Whether the problems of a run can be counted."""
    return bool(curated.problems and curated.dropped.rows and curated.problems[-1])


def _funnel_table(curated: Curated) -> Table:
    rows = [
        (
            line["stage"],
            f"{line['in']:,}",
            f"{line['out']:,}",
            f"{count:,}" if _counts_problems(curated) and number >= curated.found else "",
            ", ".join(f"{reason}: {n:,}" for reason, n in line["reasons"].items()),
            f"{line['tokens']:,}" if line["tokens"] else "",
            f"{line['seconds']:.1f}",
        )
        for number, (line, count) in enumerate(zip(curated.funnel, curated.problems, strict=True))
    ]
    head = ("stage", "rows in", "rows out", "problems", "dropped because", "tokens sampled", "seconds")
    return Table(head, rows, (1, 2, 3, 5, 6))


def chosen_section(curated: Curated) -> str:
    """Difficulty, score, length, sources and subjects of the chosen rows beside the dropped ones."""
    kept, dropped = curated.kept, curated.dropped
    length = next((name for name in LENGTHS if len(kept.numbers[name])), None)
    charts = [
        chart(
            partial(draw_distribution, chosen=kept.numbers[key], dropped=dropped.numbers[key], label=MEASURES[key]),
            4,
            2.7,
            f"{MEASURES[key]}, of {len(kept.numbers[key]):,} chosen and {len(dropped.numbers[key]):,} dropped rows",
        )
        for key in ("pass_rate", "score", length)
        if key and len(kept.numbers[key])
    ]
    kinds = [_kind(kind, kept, dropped) for kind in kept.kinds]
    groups = [("", some) for some in (charts, [kind for kind in kinds if kind]) if some]
    if not groups:
        return ""
    details = [("As a table", _kinds_table(kept, dropped))]
    return render_mixed("chosen", "Chosen against dropped", groups=groups, details=details)


def _counts(kind: str, kept: Tally, dropped: Tally) -> list[tuple[str, int, int]]:
    """Values of a kind, each with the rows chosen and all rows: numbers in order, others by how many are chosen."""
    chosen, others = kept.kinds[kind], dropped.kinds[kind]
    names = sorted({*chosen, *others}, key=lambda name: (-chosen[name], -others[name], name))
    if all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names):
        names.sort(key=float)
        if len(names) > KINDS_SHOWN and math.isfinite(float(names[-1]) - float(names[0])):
            return binned(chosen, others)
    return [(name, chosen[name], chosen[name] + others[name]) for name in names]


def binned(chosen: Mapping[str, int], others: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Many numbers as ranges of equal width, each from its lower end to below its upper end."""
    values = [float(name) for name in {*chosen, *others}]
    least, reach = min(values), max(values) - min(values)
    rough = reach / (KINDS_SHOWN - 2)
    unit = 10.0 ** math.floor(math.log10(rough))
    width = next(unit * step for step in (1, 2, 5, 10) if unit * step >= rough)
    first = math.floor(least / width)
    among, beside = Counter[int](), Counter[int]()
    for counted, names in ((among, chosen), (beside, others)):
        for name, count in names.items():
            counted[math.floor(float(name) / width)] += count
    places = range(first, math.floor(max(values) / width) + 1)
    ends = {at: f"{at * width:.6g}" for at in range(first, places.stop + 1)}
    return [(f"{ends[at]} to {ends[at + 1]}", among[at], among[at] + beside[at]) for at in places]


def _kind(kind: str, kept: Tally, dropped: Tally) -> Markup:
    counts = _counts(kind, kept, dropped)
    if len(counts) < 2 or not sum(kept.kinds[kind].values()):
        return Markup()
    totals = [max(sum(column), 1) for column in ([c for _, c, _ in counts], [a for _, _, a in counts])]

    listed = [c for c in counts if c[1] or c[2] > RARE * totals[1]][:KINDS_SHOWN]
    if len(listed) < 2:
        return Markup()

    def draw(ax: object) -> None:
        names: Sequence[str] = [name for name, _, _ in listed]
        draw_shares(ax, names, [100 * a / totals[1] for _, _, a in listed], [100 * c / totals[0] for _, c, _ in listed])
        ax.set_title(kind.capitalize() + more)  # type: ignore[attr-defined]

    more = f", {len(listed)} of {len(counts)} values" if len(counts) > len(listed) else ""
    return chart(draw, 4, 1.3 + 0.27 * len(listed), f"rows by {kind}{more}: share of all rows and of the chosen ones")


def _kinds_table(kept: Tally, dropped: Tally) -> Table:
    rows = [
        (kind, name, f"{chosen:,}", f"{every:,}", percent(chosen / every))
        for kind in kept.kinds
        for name, chosen, every in _counts(kind, kept, dropped)[: 2 * KINDS_SHOWN]
    ]
    head = ("kind", "value", "rows chosen", "of rows", "%")
    return Table(head, rows, (2, 3, 4))
