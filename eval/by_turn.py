"""The report's part on several turns: accuracy by turn beside parallel samples, and what flipped from turn to turn."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from eval.charts import CHOSEN, FAINT, FOURTH, OTHER, THIRD, chart
from eval.compare import beyond_chance
from eval.page import percent, section, span, table, text
from eval.turn_metrics import signed, spent_tokens

LINES = {  # key of `by_turn`: what it is called, colour, mark, dashes
    "m1@tk": ("turns, majority", CHOSEN, "s", "-"),
    "mk@t1": ("samples, majority", OTHER, "o", "-"),
    "p1@tk": ("turns, any right", THIRD, "^", "--"),
    "pk@t1": ("samples, any right", FOURTH, "D", "--"),
}
SIZE = 4.4, 3.2  # inches of a chart


def turns_section(summary: Mapping[str, Any]) -> str:
    """For each model and benchmark the curves, the flips and the numbers; empty for a run without turns."""
    turns = summary.get("turns")
    if not turns:
        return ""
    each = list(_each(turns))
    said = "".join(f"<p class=big>{text(sentence)}</p>" for sentence in _sentences(each))
    drawn = "".join(f"<div class=charts>{_charts(model, name, found)}</div>" for model, name, found in each)
    return section("turns", "Turn by turn", said + drawn + _measures(each) + _changes(turns))


def _each(turns: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for model, by in turns["models"].items():
        for name, found in by.items():
            yield model, name, found


def _sentences(each: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Iterator[str]:
    """The question of equal budgets, answered for each model."""
    for model, name, found in each:
        d = found["against"][0]
        sure = "beyond chance" if beyond_chance(d) else "which may be chance"
        yield f"{name}, {model}: {found['n']} turns against {found['n']} samples {signed(d)} points, {sure}."


def _charts(model: str, name: str, found: Mapping[str, Any]) -> str:
    said = "; ".join(
        f"{called} {', '.join(percent(at[key]['mean']) for at in found['by_turn'])}"
        for key, (called, *_) in LINES.items()
    )
    flips = "; ".join(f"{t['wrong_right']} became right, {t['right_wrong']} wrong" for t in found["transitions"])
    title = f"{model} on {name}"
    return chart(
        partial(draw_by_turn, by_turn=found["by_turn"], title=title), *SIZE, f"{title}, % right: {said}"
    ) + chart(partial(draw_flips, steps=found["transitions"], title=title), *SIZE, f"{title}: {flips}")


def draw_by_turn(ax: Any, by_turn: Sequence[Mapping[str, Any]], title: str) -> None:
    """Accuracy in % after k turns and of k parallel samples, with the interval of the two majorities."""
    places = range(1, len(by_turn) + 1)
    for key, (called, colour, mark, dashes) in LINES.items():
        ax.plot(places, [100 * at[key]["mean"] for at in by_turn], dashes, marker=mark, color=colour, label=called)
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


def draw_flips(ax: Any, steps: Sequence[Mapping[str, int]], title: str) -> None:
    """From each turn to the next: problems that became right upwards, that became wrong downwards."""
    places = list(range(1, len(steps) + 1))
    gained, lost = ([step[key] for step in steps] for key in ("wrong_right", "right_wrong"))
    ax.bar(places, gained, 0.6, color=CHOSEN, label="became right")
    ax.bar(places, [-n for n in lost], 0.6, facecolor="none", edgecolor=OTHER, hatch="////", label="became wrong")
    for place, up, down in zip(places, gained, lost, strict=True):
        ax.annotate(f"+{up}", (place, up), xytext=(0, 2), textcoords="offset points", ha="center")
        ax.annotate(f"-{down}", (place, -down), xytext=(0, -2), textcoords="offset points", ha="center", va="top")
    ax.axhline(0, linewidth=0.8, color=FAINT)
    ax.set_xticks(places, [f"{k} to {k + 1}" for k in places])
    ax.set_xlabel("from turn to turn")
    ax.set_ylabel("problems")
    ax.margins(y=0.2)
    ax.set_title(title)
    ax.figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)


def _measures(each: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    costs = {"m1": "turns", "p1": "turns with oracle"}
    rows = []
    for model, name, found in each:
        for measure, value in found["measures"].items():
            cost = "one sample" if measure == "m1@t1" else costs.get(measure[:2], "samples")
            gain = signed(found["gains"][measure]) if measure in found["gains"] else ""
            spent = spent_tokens(found["tokens"][cost])
            rows.append((model, name, measure, percent(value["mean"]), span(value), gain, spent, value["n"]))
    head = ("model", "benchmark", "measure", "%", "95 % interval", "against m1@t1", "tokens a problem", "problems")
    return table(head, rows, range(3, 8))


def _changes(turns: Mapping[str, Any]) -> str:
    rows = [
        (d["benchmark"], d["measure"], d["before"], d["after"], signed(d), d["n"]) for d in turns.get("differences", [])
    ]
    head = ("benchmark", "measure", "before", "after", "difference (95 % interval)", "problems")
    return table(head, rows, (4, 5)) if rows else ""
