"""The report's part on errors: which are noticed and repaired, and the false alarms."""

from functools import partial

from eval.repair import Measures
from eval.report.charts import chart, draw_intervals
from eval.report.html import percent, render_mixed, span
from eval.report.tables import repair_lines
from limo.tables import Table


def repair_section(repair: Measures) -> str:
    """A chart of each benchmark, and all values as a table; empty without such benchmarks."""
    lines = repair_lines(repair)
    if not lines:
        return ""
    groups = []
    for name in dict.fromkeys(line[0] for line in lines):
        values = {(what, model): value for n, what, model, value in lines if n == name}
        whats = list(dict.fromkeys(what for what, _ in values))
        series = {model: [values.get((what, model)) for what in whats] for model in repair}
        draw = partial(draw_intervals, names=whats, series=series, what="% of completions")
        height = 1.2 + (0.3 + 0.16 * len(series)) * len(whats)
        groups.append((name, [chart(draw, 8, height, f"Errors noticed and repaired on {name}, in %")]))
    rows = [(name, what, model, percent(v["mean"]), span(v), v["n"]) for name, what, model, v in lines]
    table = Table(("benchmark", "share", "model", "%", "95 % interval", "n"), rows, range(3, 6))
    return render_mixed("repair", "Are errors noticed and repaired?", groups=groups, details=[("As a table", table)])
