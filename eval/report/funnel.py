"""The report's part on curation: the funnel, chosen rows beside dropped ones, and whether the choice helps."""

import json
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eval.report.charts import chart, draw_distribution, draw_funnel
from eval.report.curated import Curated, Tally
from eval.report.html import percent, render_mixed
from limo.console import Table, format_metric

MEASURES = {
    "pass_rate": "Difficulty: pass rate of the attempts",
    "score": "Score",
    "tokens": "Length of the chain, tokens",
    "length": "Length of the chain, words",
    "characters": "Length of the chain, characters",
}
LENGTHS = ("tokens", "length", "characters")  # the first that the rows have is shown
KINDS_SHOWN = 28  # values of a kind in the table


def funnel_section(curated: Curated) -> str:
    """The funnel as a picture and as a table."""
    funnel = curated.funnel
    if not funnel:
        return ""
    problems = curated.problems
    left, unit = (problems, "Problems") if any(problems) else ([line["out"] for line in funnel], "Rows")
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
    hint = ", and the number of rows where a problem has several" if unit == "Problems" else ""
    return render_mixed(
        "funnel",
        "Funnel",
        notes=[
            f"{unit} left after each stage. Hatched: dropped by the stage; beside it the most frequent reason{hint}."
        ],
        charts=[picture],
        tables=[_funnel_table(curated), Table(("stage", "metric", "value"), metrics, (2,), "Metrics of the stages")],
    )


def _funnel_table(curated: Curated) -> Table:
    rows = [
        (
            line["stage"],
            f"{line['in']:,}",
            f"{line['out']:,}",
            f"{count:,}" if count else "",
            ", ".join(f"{reason}: {n:,}" for reason, n in line["reasons"].items()),
            f"{line['tokens']:,}" if line["tokens"] else "",
            f"{line['asked']:,}" if line.get("asked") else "",
            f"{line['dollars']:,.2f}" if line.get("dollars") else "",
            f"{line['seconds']:.1f}",
        )
        for line, count in zip_longest(curated.funnel, curated.problems)
    ]
    head = (
        "stage",
        "rows in",
        "rows out",
        "problems",
        "dropped because",
        "tokens sampled",
        "tokens of prompts",
        "$",
        "seconds",
    )
    return Table(head, rows, (1, 2, 3, 5, 6, 7, 8))


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
        if key
        and len(kept.numbers[key])
        and len({*kept.numbers[key], *dropped.numbers[key]}) > 1  # else nothing to see
    ]
    table = _kinds_table(kept, dropped)
    if not charts and not table.rows:
        return ""
    return render_mixed(
        "chosen", "Chosen against dropped", charts=charts, details=[("By source, subject and the like", table)]
    )


def _kinds_table(kept: Tally, dropped: Tally) -> Table:
    rows = []
    for kind, chosen in kept.kinds.items():
        every = chosen + dropped.kinds[kind]
        listed = sorted(every, key=lambda name: (-chosen[name], -every[name], name))[:KINDS_SHOWN]
        rows += [(kind, n, f"{chosen[n]:,}", f"{every[n]:,}", percent(chosen[n] / every[n])) for n in listed]
    head = ("kind", "value", "rows chosen", "of rows", "%")
    return Table(head, rows, (2, 3, 4))


# -- what is known of the choice itself


ABOUT = (
    "Verified chains got flaws that keep the answer right. A cell is how often a score prefers the untouched chain, "
    "in % of pairs with the 95 % interval: 50 is blind, less prefers the flaw."
)


def choice_section(folder: Path) -> str:
    """The tables of `curation/evidence/probe.py` and `curation/evidence/tournament.py`, as far as they ran."""
    probe, verdict = _read_json(folder / "probe.json"), _read_json(folder / "tournament" / "verdict.json")
    tables, sentences, notes = list[Table](), list[str](), list[str]()
    if verdict:
        sentences.append(verdict["sentence"])
        tables.append(_finalist_table(verdict))
    if probe:
        notes.append(ABOUT)
        tables.append(_probe_table(probe["scores"]))
    return (
        render_mixed("choice", "Does the choice help?", sentences=sentences, notes=notes, tables=tables)
        if tables
        else ""
    )


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _probe_table(scores: dict[str, dict[str, dict[str, Any]]]) -> Table:
    flaws = list(dict.fromkeys(flaw for by in scores.values() for flaw in by))
    rows = [(name, *(_decided(by.get(flaw)) for flaw in flaws)) for name, by in scores.items()]
    return Table(("score", *flaws), rows, range(1, len(flaws) + 1))


def _decided(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    return f"{100 * found['share']:.0f} ({100 * found['low']:.0f}-{100 * found['high']:.0f})"


def _finalist_table(verdict: dict[str, Any]) -> Table:
    rows = [
        (f["name"], f"{100 * f['mean']:+.1f}", f"{100 * f['low']:+.1f} to {100 * f['high']:+.1f}", f["blocks"])
        for f in verdict["finalists"]
    ]
    return Table(("finalist", "to random, points", "95 % interval", "blocks"), rows, (1, 2, 3))
