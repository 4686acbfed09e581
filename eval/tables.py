"""The tables that an evaluation ends with on the terminal: of one turn, and of several."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.compare import p_value
from eval.repair import repair_table
from eval.turn_metrics import Row, signed, spent_tokens
from limo.manifest import read_manifest
from limo.progress import clock


def print_summary(summary: Mapping[str, Any], folder: Path, report: Path) -> None:
    """What `eval.run` ends with: the differences, each model on each benchmark, the time, where the report is."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(title=f"{folder.name}: accuracy in %, pass@1", title_justify="left")
    for column in ("held-out problems", "before", "after", "difference", "95 % interval", "p", "n"):
        table.add_column(column, justify="left" if column == "held-out problems" else "right")
    for d in summary["differences"]:
        before, after = (summary["accuracy"][d[m]][d["benchmark"]]["mean"] for m in ("before", "after"))
        table.add_row(
            d["benchmark"],
            f"{d['before']} {100 * before:.1f}",
            f"{d['after']} {100 * after:.1f}",
            f"{100 * d['mean']:+.1f}",
            f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
            p_value(d["p"]),
            str(d["n"]),
        )
    if summary["differences"]:
        console.print(table)
    console.print(_accuracies(summary))
    if summary["repair"]:
        console.print(repair_table(summary["repair"]))
    for model, by in summary["accuracy"].items():
        for name, a in by.items():
            if a["truncated"] > 0.5:
                console.print(
                    f"{100 * a['truncated']:.0f} % of the completions of {model} on {name} were cut off: this measures "
                    "max_tokens more than the model",
                    soft_wrap=True,
                )
    console.print(f"Seconds: {_seconds(folder)}")
    console.print(f"Report:  {report}", soft_wrap=True)


def _accuracies(summary: Mapping[str, Any]) -> Any:
    """Each model on each benchmark, for a terminal: accuracy, what was cut off, what the grader could not tell."""
    from rich.table import Table

    several = any(a["pass_at"] for by in summary["accuracy"].values() for a in by.values())
    heads = ["model", "benchmark", "pass@1 %", "95 % interval", "cut off %", "unsure %", "tokens", "n"]
    heads += ["k", "pass@k %", "maj@k %"] if several else []
    table = Table()
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right")
    for model, by in summary["accuracy"].items():
        for name, a in by.items():
            interval = f"{100 * a['low']:.1f} to {100 * a['high']:.1f}"
            numbers = [f"{100 * a['mean']:.1f}", interval, f"{100 * a['truncated']:.1f}", f"{100 * a['unsure']:.1f}"]
            numbers += [f"{a['tokens_per_answer']:.0f}", str(a["problems"])]
            table.add_row(model, name, *numbers, *(_at_most(a) if several else ()))
    return table


def _at_most(a: Mapping[str, Any]) -> list[str]:
    """pass@k and maj@k at the largest k there is."""
    k = max(map(int, a["pass_at"]), default=1)
    found = (a[which].get(str(k)) for which in ("pass_at", "maj_at"))
    return [str(k), *("" if at is None else f"{100 * at['mean']:.1f}" for at in found)]


def _seconds(folder: Path) -> str:
    """Time of each finished stage of a run, as one phrase."""
    seconds: dict[str, float] = {}
    for name, entry in read_manifest(folder).items():
        stage = name.partition("/")[0]
        seconds[stage] = seconds.get(stage, 0) + entry["seconds"]
    return (
        ", ".join(f"{stage} {clock(value)}" for stage, value in seconds.items())
        + f"; together {clock(sum(seconds.values()))}"
    )


def print_turns(turns: Mapping[str, Any], folder: Path, report: Path) -> None:
    """What `eval.multiturn` ends with: the measures, the equal budgets, the flips, the differences."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    each = [(m, name, found) for m, by in turns["models"].items() for name, found in by.items()]
    table = Table(title=f"{folder.name}: accuracy in % with 95 % interval", title_justify="left")
    for head in ("model", "benchmark", *each[0][2]["measures"], "problems"):
        table.add_column(head, justify="left" if head in ("model", "benchmark") else "right")
    for model, name, found in each:
        cells = [
            f"{100 * v['mean']:.1f}\n{100 * v['low']:.1f} to {100 * v['high']:.1f}" for v in found["measures"].values()
        ]
        table.add_row(model, name, *cells, str(found["measures"]["m1@t1"]["n"]))
    console.print(table)
    console.print(_budgets(each))
    console.print(_flips(each))
    for d in turns["differences"]:
        said = f"{d['benchmark']}, {d['measure']}: {d['after']} against {d['before']} {signed(d)}, p {p_value(d['p'])}"
        console.print(said, soft_wrap=True)
    console.print(f"Seconds: {_seconds(folder)}")
    console.print(f"Report:  {report}", soft_wrap=True)


def _budgets(each: Sequence[tuple[str, str, Row]]) -> Any:
    """Turns against parallel samples, which cost as many answers."""
    from rich.table import Table

    n = each[0][2]["n"]
    table = Table(title=f"{n} turns against {n} parallel samples, in points", title_justify="left")
    heads = ("model", "benchmark", "without oracle", "p", "with oracle", "p", "tokens, turns", "tokens, samples")
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right")
    for model, name, found in each:
        cells = [cell for d in found["against"] for cell in (signed(d), p_value(d["p"]))]
        cost = [spent_tokens(found["tokens"][key]) for key in ("turns", "samples")]
        table.add_row(model, name, *cells, *cost)
    return table


def _flips(each: Sequence[tuple[str, str, Row]]) -> Any:
    from rich.table import Table

    table = Table(title="From turn to turn: problems that became right, and that became wrong", title_justify="left")
    heads = ["model", "benchmark", *(f"{k} to {k + 1}" for k in range(1, each[0][2]["n"]))]
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right")
    for model, name, found in each:
        table.add_row(model, name, *(f"+{t['wrong_right']} -{t['right_wrong']}" for t in found["transitions"]))
    return table
