"""The report's part on several turns: accuracy by turn beside parallel samples, and what flipped from turn to turn."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from eval.compare import beyond_chance
from eval.metrics import signed
from eval.report.charts import CHOSEN, FOURTH, OTHER, THIRD, chart
from eval.report.html import percent, render_mixed
from eval.report.tables import budget_table, each_turns, flip_table, measure_table, turn_difference_table

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
    """Accuracy in % after k turns and of k parallel samples, with the interval of the two majorities."""
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
