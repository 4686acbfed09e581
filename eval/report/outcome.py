"""The report's part on evaluation: accuracy before and after, by part and by turn, and which problems flipped."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.compare import sentences
from eval.intervals import beyond_chance
from eval.metrics import signed
from eval.report.charts import CHOSEN, FOURTH, OTHER, THIRD, chart, draw_intervals
from eval.report.html import LONGEST, fill_template, percent, render_mixed, span
from eval.report.tables import (
    Summary,
    accuracy_table,
    budget_table,
    cut_off_warnings,
    each_accuracy,
    each_turns,
    flip_table,
    measure_table,
    turn_difference_table,
    unsure_table,
)
from limo.console import Table
from limo.data import parsed

LOOKED_AT = 4  # problems of a benchmark whose completions are on the page
SIDES = 4  # most completions side by side
FLIPPED = 12  # most flipped problems of each kind; the files have them all
ALL_TEXTS = 2_000_000  # characters of completions outside the viewer, shared by all of them

Problem = tuple[Mapping[str, Any], list[tuple[str, Mapping[str, Any]]], str]  # row, named completions, words before it


def outcome_section(summary: Summary) -> str:
    """Accuracy with intervals, accuracy by level, and the unsure verdicts."""
    if not summary:
        return ""
    said = sentences(summary)
    unsure = unsure_table(summary)
    return render_mixed(
        "outcome",
        "Did it help?" if said else "Accuracy",
        sentences=said,
        notes=cut_off_warnings(summary),
        charts=[_accuracy_chart(summary)],
        tables=[accuracy_table(summary)],
        details=[("By level, subject and the like", _parts(summary)), (f"{len(unsure.rows)} unsure verdicts", unsure)],
    )


def _accuracy_chart(summary: Summary) -> Markup:
    names = list(dict.fromkeys(name for _, name, _ in each_accuracy(summary)))
    series = {model: [by.get(name) for name in names] for model, by in summary["accuracy"].items()}
    values = "; ".join(f"{name}: {model} {percent(a['mean'])} %" for model, name, a in each_accuracy(summary))
    draw = partial(draw_intervals, names=names, series=series)
    height = 1.2 + (0.3 + 0.16 * len(series)) * len(names)
    return chart(draw, 8, height, f"Accuracy with 95 % intervals. {values}") if names else Markup()


def _parts(summary: Summary) -> Table:
    """Accuracy by level, subject and the like, with the models of each part below each other."""
    rows = [
        (name, f"{note} {value}", model, percent(i["mean"]), span(i), i["n"])
        for model, name, a in each_accuracy(summary)
        for note, by in a.get("parts", {}).items()
        for value, i in by.items()
    ]
    models = list(summary["accuracy"])
    order = list(dict.fromkeys(row[:2] for row in rows))
    rows.sort(key=lambda row: (order.index(row[:2]), models.index(row[2])))
    return Table(("benchmark", "part", "model", "pass@1 %", "95 % interval", "problems"), rows, range(3, 6))


def flips_section(folder: Path, summary: Summary) -> str:
    """The problems that one model solves and the other does not, both completions side by side."""
    groups = []
    for d in summary.get("differences", []):
        wanted = {*d["gained"][:FLIPPED], *d["lost"][:FLIPPED]}
        before, after = (
            {r["id"]: r for r in _read(folder / "eval" / d[m] / f"{d['benchmark']}.jsonl") if r["id"] in wanted}
            for m in ("before", "after")
        )
        for ids, what in ((d["gained"], "now right"), (d["lost"], "now wrong")):
            known = [i for i in ids[:FLIPPED] if i in before and i in after]
            problems: list[Problem] = []
            for i in known:
                sides = _sides(d["before"], before[i], SIDES // 2) + _sides(d["after"], after[i], SIDES // 2)
                problems.append((before[i], sides, ""))
            more = f", {len(known)} of them here" if len(known) < len(ids) else ""
            if known:
                groups.append((f"{d['benchmark']}, {d['before']} to {d['after']}: {len(ids)} {what}{more}", problems))
    return _render_answers("flips", "Problems that flipped", groups)


def answers_section(folder: Path, summary: Summary) -> str:
    """The first problems of each benchmark, completions side by side; empty if flipped problems are shown."""
    if any(d["gained"] or d["lost"] for d in summary.get("differences", [])):
        return ""
    problems: list[Problem] = [
        (row, _sides(model, row, SIDES), f"{model} on {name}: ")
        for model, name, _ in each_accuracy(summary)
        for row in _read(folder / "eval" / model / f"{name}.jsonl", LOOKED_AT)
    ]
    return _render_answers("answers", "A look at the answers", [("", problems)] if problems else [])


def _render_answers(key: str, title: str, groups: Sequence[tuple[str, list[Problem]]]) -> str:
    """Completions side by side, shortened so that many benchmarks do not fill the page."""
    if not groups:
        return ""
    texts = (SIDES + 1) * sum(len(problems) for _, problems in groups)
    limit = max(1000, min(LONGEST, ALL_TEXTS // max(texts, 1)))
    return fill_template("answers.html", key=key, title=title, groups=groups, limit=limit)


def _sides(model: str, row: Mapping[str, Any], most: int) -> list[tuple[str, Mapping[str, Any]]]:
    """The first completions of a model, each with a title, which has a number if there are several."""
    completions = row["completions"]
    return [(f"{model} {at}" if len(completions) > 1 else model, c) for at, c in enumerate(completions[:most], 1)]


def sampled_section(manifest: Mapping[str, Any]) -> str:
    """What was evaluated, with which weights and decoding settings."""
    rows = []
    for name, entry in manifest.items():
        if name.startswith("eval/"):
            settings = entry["settings"]
            decoding = (settings["sampling"][key] for key in ("n", "temperature", "top_p", "max_tokens"))
            rows.append((*name.split("/", 2)[1:], settings["model"], *decoding))
    if not rows:
        return ""
    head = ("model", "benchmark", "weights", "n", "temperature", "top p", "max tokens")
    return render_mixed("sampled", "How it was sampled", tables=[Table(head, rows, range(3, 7))])


def _read(path: Path, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Read at most `limit` rows of an evaluation; none if the file is missing."""
    if path.is_file():
        with path.open("rb") as lines:
            for number, line in enumerate(lines):
                if limit is not None and number >= limit:
                    return
                yield parsed(line)


# -- several turns


LINES = {  # key of `by_turn`: label, colour, mark, dashes
    "m1@tk": ("turns, majority", CHOSEN, "s", "-"),
    "mk@t1": ("samples, majority", OTHER, "o", "-"),
    "p1@tk": ("turns, any right", THIRD, "^", "--"),
    "pk@t1": ("samples, any right", FOURTH, "D", "--"),
}


def turns_section(summary: Mapping[str, Any]) -> str:
    """For each model and benchmark the curves, the metrics and the flips; empty for a run without turns."""
    turns = summary.get("turns")
    if not turns:
        return ""
    each = each_turns(turns)
    return render_mixed(
        "turns",
        "Turn by turn",
        sentences=[_compare_budgets(*one) for one in each],
        charts=[_chart(*one) for one in each],
        tables=[measure_table(each), budget_table(each), flip_table(each), turn_difference_table(turns)],
    )


def _compare_budgets(model: str, name: str, metrics: Mapping[str, Any]) -> str:
    d, n = metrics["against"][0], metrics["n"]
    certainty = "beyond chance" if beyond_chance(d) else "which may be chance"
    return f"{name}, {model}: {n} turns against {n} samples {signed(d)} points, {certainty}."


def _chart(model: str, name: str, metrics: Mapping[str, Any]) -> Markup:
    by_turn, title = metrics["by_turn"], f"{model} on {name}"
    values = "; ".join(
        f"{label} {', '.join(percent(at[key]['mean']) for at in by_turn)}" for key, (label, *_) in LINES.items()
    )
    draw = partial(draw_by_turn, by_turn=by_turn, title=title)
    return chart(draw, 4.4, 3.2, f"{title}, % right: {values}")


def draw_by_turn(ax: Any, by_turn: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw accuracy in % after k turns and of k parallel samples, with intervals of the two majorities."""
    places = range(1, len(by_turn) + 1)
    for key, (label, colour, mark, dashes) in LINES.items():
        ax.plot(places, [100 * at[key]["mean"] for at in by_turn], dashes, marker=mark, color=colour, label=label)
        if dashes == "-":
            low, high = ([100 * at[key][end] for at in by_turn] for end in ("low", "high"))
            ax.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.set_xticks(list(places))
    ax.set_xlabel("turns, or parallel samples")
    ax.set_ylabel("% right")
    ax.set_ylim(bottom=0)
    ax.set_title(title)
    ax.grid(axis="y")
    ax.figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
