"""The report's part on curation: the funnel, chosen rows compared with random ones, and whether the choice helps."""

import json
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eval.report.charts import chart, draw_distribution, draw_funnel, draw_kinds
from eval.report.curated import Curated, Tally
from eval.report.html import render_mixed
from limo.console import Table, format_metric

MEASURES = {
    "pass_rate": "Difficulty: pass rate of the attempts",
    "score": "Score",
    "tokens": "Length of the chain, tokens",
    "length": "Length of the chain, words",
    "characters": "Length of the chain, characters",
}
LENGTHS = ("tokens", "length", "characters")  # the first that the rows have is shown
KINDS_SHOWN = 28  # most values of a kind in the table
KINDS_DRAWN = 9  # most values of a kind in a chart
KIND_NAMES = {"made": "What was done to the chain", "topic": "Topic", "source": "Source", "teacher": "Teacher"}


def funnel_section(curated: Curated) -> str:
    """The funnel as a chart and as a table."""
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
    """Difficulty, score, length and kinds of the chosen rows, compared with the random set, or with dropped rows."""
    kept, (others, beside) = (
        curated.kept,
        (curated.random, "random") if curated.random else (curated.dropped, "dropped"),
    )
    lengths = [name for name in LENGTHS if len(kept.numbers[name])]
    length = next((name for name in lengths if len(others.numbers[name])), next(iter(lengths), None))
    charts = []
    for key in ("pass_rate", "score", length):
        name, them = (beside, others) if key and len(others.numbers[key]) else ("dropped", curated.dropped)
        mine, theirs = (kept.numbers[key], them.numbers[key]) if key else ((), ())
        if key and len(mine) and len({*mine, *theirs}) > 1:  # else nothing to see
            draw = partial(draw_distribution, chosen=mine, others=theirs, label=MEASURES[key], beside=name)
            said = f"{MEASURES[key]}, of {len(mine):,} chosen and {len(theirs):,} {name} rows"
            charts.append(chart(draw, 4, 2.7, said))
    for kind, chosen in kept.kinds.items():
        random = others.kinds[kind]
        if 1 < len({*chosen, *random}) <= KINDS_DRAWN:
            draw = partial(draw_kinds, chosen=chosen, others=random, label=KIND_NAMES.get(kind, kind), beside=beside)
            charts.append(chart(draw, 4, 2.9, f"{kind} of the chosen and the {beside} rows"))
    table = _kinds_table(kept, others, beside)
    if not charts and not table.rows:
        return ""
    return render_mixed(
        "chosen", f"Chosen beside {beside}", charts=charts, details=[("By source, subject and the like", table)]
    )


def _kinds_table(kept: Tally, others: Tally, beside: str) -> Table:
    rows = []
    for kind, chosen in kept.kinds.items():
        theirs = others.kinds[kind]
        listed = sorted({*chosen, *theirs}, key=lambda name: (-chosen[name], -theirs[name], name))[:KINDS_SHOWN]
        rows += [(kind, n, f"{chosen[n]:,}", f"{theirs[n]:,}") for n in listed]
    return Table(("kind", "value", "rows chosen", f"rows {beside}"), rows, (2, 3))


# -- results of the probe and the tournament


ABOUT = (
    "Verified chains got flaws that keep the answer right. A cell is how often a score prefers the untouched chain, "
    "in % of pairs with the 95 % interval: 50 is blind, less prefers the flaw."
)


def choice_section(folder: Path) -> str:
    """The tables of `curation/evidence/probe.py` and `curation/evidence/tournament.py`, if they have run."""
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
