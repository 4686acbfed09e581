"""What an evaluation prints at its end, after one turn and after several."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.compare import p_value
from eval.metrics import signed
from eval.report import tables
from limo.progress import clock
from limo.run import read_manifest
from limo.tables import print_table, terminal


def print_summary(summary: Mapping[str, Any], folder: Path, report: Path) -> None:
    """Print the differences, each model on each benchmark, the time and the path of the report."""
    console = terminal(110)
    if summary["differences"]:
        print_table(tables.difference_table(summary, f"{folder.name}: accuracy in %, pass@1"), console)
    print_table(tables.accuracy_table(summary), console)
    if summary["repair"]:
        print_table(tables.repair_table(summary["repair"]), console)
    for warning in tables.cut_off_warnings(summary):
        console.print(warning, soft_wrap=True, markup=False)
    _print_end(console, folder, report)


def print_turns(turns: Mapping[str, Any], folder: Path, report: Path) -> None:
    """Print the measures, the equal budgets, the flips, the differences, the time and the path of the report."""
    console, each = terminal(), tables.each_turns(turns)
    print_table(tables.measure_table(each, f"{folder.name}: accuracy in % with 95 % interval"), console)
    print_table(tables.budget_table(each), console)
    print_table(tables.flip_table(each), console)
    for d in turns["differences"]:
        change = f"{d['after']} against {d['before']} {signed(d)}, p {p_value(d['p'])}"
        console.print(f"{d['benchmark']}, {d['measure']}: {change}", soft_wrap=True, markup=False)
    _print_end(console, folder, report)


def _print_end(console: Any, folder: Path, report: Path) -> None:
    seconds = Counter[str]()
    for name, entry in read_manifest(folder).items():
        seconds[name.partition("/")[0]] += entry["seconds"]
    stages = ", ".join(f"{stage} {clock(value)}" for stage, value in seconds.items())
    console.print(f"Seconds: {stages}; together {clock(seconds.total())}", soft_wrap=True, markup=False)
    console.print(f"Report:  {report}", soft_wrap=True, markup=False)
