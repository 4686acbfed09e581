"""The tables of an evaluation, for the terminal and the page: single turns, several turns, and repaired errors."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.compare import sentences
from eval.intervals import p_value
from eval.metrics import Row, signed, spent_tokens
from eval.repair import Measures
from eval.report.html import percent, span
from limo.console import Table, clock, print_table, terminal
from limo.run import read_entries

Summary = Mapping[str, Any]
Each = Sequence[tuple[str, str, Row]]  # model, benchmark, and the metrics of its turns


def each_accuracy(summary: Summary) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield model, benchmark and metrics for each of a summary's accuracies."""
    for model, by in summary.get("accuracy", {}).items():
        for name, a in by.items():
            yield model, name, a


def cut_off_warnings(summary: Summary) -> list[str]:
    """A sentence for each model and benchmark with most completions cut off."""
    return [
        f"{100 * a['truncated']:.0f} % of the completions of {model} on {name} were cut off: this measures max_tokens "
        "more than the model"
        for model, name, a in each_accuracy(summary)
        if a["truncated"] > 0.5
    ]


def difference_table(summary: Summary, title: str) -> Table:
    """A table of the paired differences, with each model's accuracy."""
    rows = []
    for d in summary["differences"]:
        before, after = (percent(summary["accuracy"][d[m]][d["benchmark"]]["mean"]) for m in ("before", "after"))
        interval = f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}"
        change = (f"{100 * d['mean']:+.1f}", interval, p_value(d["p"]), d["n"])
        rows.append((d["benchmark"], f"{d['before']} {before}", f"{d['after']} {after}", *change))
    head = ("held-out problems", "before", "after", "difference", "95 % interval", "p", "n")
    return Table(head, rows, range(1, 7), title)


def accuracy_table(summary: Summary) -> Table:
    """A table of each model on each benchmark; with several completions also pass@k and maj@k at the largest k."""
    with_k = any(a["pass_at"] for _, _, a in each_accuracy(summary))
    rows = []
    for model, name, a in each_accuracy(summary):
        numbers = (percent(a["mean"]), span(a), percent(a["truncated"]), percent(a["unsure"]))
        k = max(map(int, a["pass_at"]), default=1)
        at = (a[which].get(str(k)) for which in ("pass_at", "maj_at"))
        more = (k, *("" if value is None else percent(value["mean"]) for value in at)) if with_k else ()
        rows.append((model, name, *numbers, f"{a['tokens_per_answer']:.0f}", a["problems"], *more))
    head = ["model", "benchmark", "pass@1 %", "95 % interval", "cut off %", "unsure %", "tokens", "n"]
    head += ["k", "pass@k %", "maj@k %"] if with_k else []
    return Table(head, rows, range(2, len(head)))


def unsure_table(summary: Summary) -> Table:
    """A table of the unsure verdicts, with the reason."""
    rows = [
        (name, model, u["id"], u["answer"], u["extracted"], u["why"])
        for model, name, a in each_accuracy(summary)
        for u in a.get("unsure_listed", [])
    ]
    return Table(("benchmark", "model", "problem", "reference", "extracted", "why the grader is unsure"), rows)


def repair_table(repair: Measures) -> Table:
    """A table with a column for each model and a row for each metric, over all rows and by type of error."""
    cells: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for model, benchmarks in repair.items():
        for name, shares in benchmarks.items():
            by_type = shares.get("by type", {})
            listed = {what: value for what, value in shares.items() if what != "by type"}
            listed |= {f"{kind}: {what}": value for kind, by in by_type.items() for what, value in by.items()}
            for what, value in listed.items():
                cells.setdefault((name, what), {})[model] = value
    rows = []
    for (name, what), by in cells.items():
        values = (f"{percent(by[m]['mean'])} ({span(by[m])})" if m in by else "" for m in repair)
        rows.append((name, what, *values, next(iter(by.values()))["n"]))
    head = ("benchmark", "share", *repair, "n")
    return Table(head, rows, range(2, len(head)), "% noticed, repaired, and alarms where nothing was wrong")


def each_turns(turns: Mapping[str, Any]) -> Each:
    """Yield model, benchmark and the metrics of its turns."""
    return [(model, name, metrics) for model, by in turns["models"].items() for name, metrics in by.items()]


def measure_table(each: Each, title: str = "") -> Table:
    """A table with a column for each measure; the interval stands below the value."""
    rows = []
    for model, name, metrics in each:
        values = metrics["measures"].values()
        cells = (f"{percent(v['mean'])}\n{span(v)}" for v in values)
        rows.append((model, name, *cells, next(iter(values))["n"]))
    head = ("model", "benchmark", *each[0][2]["measures"], "problems")
    return Table(head, rows, range(2, len(head)), title)


def budget_table(each: Each) -> Table:
    """A table that compares turns with the same number of parallel samples."""
    rows = []
    for model, name, metrics in each:
        cells = (cell for d in metrics["against"] for cell in (signed(d), p_value(d["p"])))
        rows.append((model, name, *cells, *(spent_tokens(metrics["tokens"][key]) for key in ("turns", "samples"))))
    measured = ("without oracle", "p", "with oracle", "p", "turn 2, a fresh sample", "p")
    head, n = ("model", "benchmark", *measured, "tokens, turns", "tokens, samples"), each[0][2]["n"]
    return Table(head, rows, range(2, 10), f"{n} turns against {n} parallel samples, in points")


def flip_table(each: Each) -> Table:
    """A table of the problems that became right, and that became wrong, from each turn to the next."""
    rows = [
        (model, name, *(f"+{t['wrong_right']} -{t['right_wrong']}" for t in metrics["transitions"]))
        for model, name, metrics in each
    ]
    head = ("model", "benchmark", *(f"{k} to {k + 1}" for k in range(1, each[0][2]["n"])))
    title = "From turn to turn: problems that became right, and that became wrong"
    return Table(head, rows, range(2, len(head)), title)


def turn_difference_table(turns: Mapping[str, Any]) -> Table:
    """A table of the differences of each measure between pairs of models, on the same problems."""
    rows = [
        (d["benchmark"], d["measure"], d["before"], d["after"], signed(d), d["n"]) for d in turns.get("differences", [])
    ]
    head = ("benchmark", "measure", "before", "after", "difference (95 % interval)", "problems")
    return Table(head, rows, (4, 5))


# -- output at the end of an evaluation


def print_summary(summary: Mapping[str, Any], folder: Path, report: Path) -> None:
    """Print the differences, each model on each benchmark, the time and the path of the report."""
    console = terminal(110)
    for said in sentences(summary):
        console.print(said, soft_wrap=True, markup=False)
    if summary["differences"]:
        print_table(difference_table(summary, f"{folder.name}: accuracy in %, pass@1"), console)
    print_table(accuracy_table(summary), console)
    if summary["repair"]:
        print_table(repair_table(summary["repair"]), console)
    for warning in cut_off_warnings(summary):
        console.print(warning, soft_wrap=True, markup=False)
    _print_end(console, folder, report)


def print_turns(turns: Mapping[str, Any], folder: Path, report: Path) -> None:
    """Print the measures, the equal budgets, the flips, the differences, the time and the path of the report."""
    console, each = terminal(), each_turns(turns)
    print_table(measure_table(each, f"{folder.name}: accuracy in % with 95 % interval"), console)
    print_table(budget_table(each), console)
    print_table(flip_table(each), console)
    for d in turns["differences"]:
        change = f"{d['after']} against {d['before']} {signed(d)}, p {p_value(d['p'])}"
        console.print(f"{d['benchmark']}, {d['measure']}: {change}", soft_wrap=True, markup=False)
    _print_end(console, folder, report)


def _print_end(console: Any, folder: Path, report: Path) -> None:
    seconds = Counter[str]()
    for name, entry in read_entries(folder).items():
        seconds[name.partition("/")[0]] += entry["seconds"]
    stages = ", ".join(f"{stage} {clock(value)}" for stage, value in seconds.items())
    console.print(f"Seconds: {stages}; together {clock(seconds.total())}", soft_wrap=True, markup=False)
    console.print(f"Report:  {report}", soft_wrap=True, markup=False)
