"""Whether a model notices and mends errors: what it makes of a solution that was begun rightly, or wrongly.

Benchmarks whose problems come with the beginning of a solution (`notes.begun`; `curation/begun.py` makes them) are
measured here beside their accuracy, which is that of the final answer:

    wrong beginnings    noticed: it reflects, or says what the step should have been; repaired: its answer is right
    right beginnings    false alarms: it reflects where nothing was wrong; spoiled: its answer is wrong all the same;
                        some are whole solutions, after which there is nothing to say
    no beginning        reflections in solutions of its own, and how many of those end right

All by type of error as well. LEMMA reports none of this. A reflection is recognised by its words, in English, so a
model that mends a step without a word about it and without writing the right equation has repaired it unnoticed.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from eval.charts import chart, draw_intervals
from eval.compare import share
from eval.equations import equations
from eval.page import folded, percent, section, span, table, text

Rows = Sequence[Mapping[str, Any]]
RIGHT = ("right", "whole")  # kinds of right beginnings: up to a step, or with the answer
Measures = Mapping[str, Mapping[str, Any]]  # by model, by benchmark

# What a text says that looks back and doubts; `tests/test_repair.py` has sentences for and against
REFLECTION = re.compile(
    r"""\b(?:
      wait | hold\ on | hmm+ | oops | just\ a\ moment | before\ i\ go\ on | not\ quite\ right
    | let\ me\ (?:re-?check|double-check|check|verify|correct|go\ back|reconsider|look\ at\ (?:it|this|that))
    | let\ me\ work\ it\ out\ anew | (?:start|begin)\ (?:again|over|afresh)
    | i\ (?:have\ )?made\ a\ mistake | (?:is|was)\ a\ mistake | need\ to\ correct
    | (?:does\ not|doesn't|do\ not|don't)\ add\ up | something\ is\ (?:off|wrong)
    | (?:that|this|it|step|line)\ (?:is|was|seems|looks)\ (?:not\ (?:right|correct)|wrong|incorrect|missing)
    | (?:that|this|it)\ (?:cannot|can't)\ be\ (?:right|correct) | (?:that|this|it)\ (?:isn't|wasn't)\ (?:right|correct)
    | look(?:ing)?\ at\ (?:it|this|this\ line)\ (?:again|once\ more)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def reflects(text: str) -> bool:
    """Whether a text looks back at what was said and doubts it. "This is correct" is no doubt."""
    return REFLECTION.search(text) is not None


def notices(text: str, begun: Mapping[str, Any]) -> bool:
    """Whether a continuation of a wrong beginning reflects, or writes the equation that belongs in its last step."""
    if reflects(text):
        return True
    wanted = {(e.left, e.right) for e in equations(str(begun.get("right", "")))}
    return bool(wanted & {(e.left, e.right) for e in equations(text)})


def measured(results: Mapping[str, Mapping[str, Rows]], resamples: int, seed: int) -> dict[str, Any]:
    """For each model and benchmark the shares above with their intervals, as plain JSON; empty without beginnings."""
    if not any("begun" in row["notes"] for by in results.values() for rows in by.values() for row in rows):
        return {}
    return {model: {name: _shares(rows, resamples, seed) for name, rows in by.items()} for model, by in results.items()}


def _shares(rows: Rows, resamples: int, seed: int) -> dict[str, Any]:
    """The shares of one benchmark, each of all its rows and by type."""
    right = [row for row in rows if row["notes"].get("type") in RIGHT]
    wrong = [row for row in rows if "begun" in row["notes"] and row["notes"].get("type") not in RIGHT]
    plain = [row for row in rows if "begun" not in row["notes"]]
    kinds = sorted({row["notes"]["type"] for row in wrong})

    def of(some: Rows, hit: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]) -> dict[str, Any]:
        values = {r["id"]: sum(hit(r, c) for c in r["completions"]) / len(r["completions"]) for r in some}
        return asdict(share(values, resamples, seed))

    found: dict[str, Any] = {}
    if wrong:
        found["noticed"], found["repaired"] = of(wrong, _noticed), of(wrong, _correct)
        found["noticed and repaired"] = of(wrong, lambda r, c: _noticed(r, c) and _correct(r, c))
        found["by type"] = {
            kind: {
                "noticed": of([r for r in wrong if r["notes"]["type"] == kind], _noticed),
                "repaired": of([r for r in wrong if r["notes"]["type"] == kind], _correct),
            }
            for kind in kinds
        }
    if right:
        found["false alarm"] = of(right, lambda r, c: reflects(c["text"]))
        found["spoiled"] = of(right, lambda r, c: not _correct(r, c))
        found["right to wrong"] = of(right, lambda r, c: reflects(c["text"]) and not _correct(r, c))
        found["by type"] = found.get("by type", {}) | {
            kind: {
                "false alarm": of([r for r in right if r["notes"]["type"] == kind], lambda r, c: reflects(c["text"])),
                "spoiled": of([r for r in right if r["notes"]["type"] == kind], lambda r, c: not _correct(r, c)),
            }
            for kind in sorted({row["notes"]["type"] for row in right})
        }
    if plain:
        found["reflects"] = of(plain, lambda r, c: reflects(c["text"]))
        found["reflects and right"] = of(plain, lambda r, c: reflects(c["text"]) and _correct(r, c))
    return found


def _correct(row: Mapping[str, Any], completion: Mapping[str, Any]) -> bool:
    return bool(completion["verdict"] == "correct")


def _noticed(row: Mapping[str, Any], completion: Mapping[str, Any]) -> bool:
    return notices(completion["text"], row["notes"]["begun"])


def _lines(repair: Measures) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Benchmark, what was measured, the model, the share: the models of one measure below each other."""
    names = list(dict.fromkeys(name for by in repair.values() for name in by))
    for name in names:
        whats = list(dict.fromkeys(w for by in repair.values() for w in by.get(name, {}) if w != "by type"))
        for what in whats:
            for model, by in repair.items():
                if what in by.get(name, {}):
                    yield name, what, model, by[name][what]
        kinds = dict.fromkeys(k for by in repair.values() for k in by.get(name, {}).get("by type", {}))
        for kind in kinds:
            for what in ("noticed", "repaired", "false alarm", "spoiled"):
                for model, by in repair.items():
                    if what in by.get(name, {}).get("by type", {}).get(kind, {}):
                        yield name, f"{kind}: {what}", model, by[name]["by type"][kind][what]


def repair_table(repair: Measures) -> Any:
    """All shares, for a terminal: a line for each measure, a column for each model."""
    from rich.table import Table

    models = list(repair)
    shown = Table(title="Errors: % noticed, repaired, and alarms where nothing was wrong", title_justify="left")
    for head in ("benchmark", "share", *models, "n"):
        shown.add_column(head, justify="left" if head in ("benchmark", "share") else "right")
    cells: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for name, what, model, found in _lines(repair):
        cells.setdefault((name, what), {})[model] = found
    for (name, what), by in cells.items():
        said = [f"{percent(by[m]['mean'])} ({span(by[m])})" if m in by else "" for m in models]
        shown.add_row(name, what, *said, str(next(iter(by.values()))["n"]))
    return shown


def repair_section(repair: Measures) -> str:
    """The report's part on errors: a chart of each benchmark, and all of it as a table."""
    lines = list(_lines(repair)) if repair else []
    charts = ""
    for name in dict.fromkeys(line[0] for line in lines):
        whats = list(dict.fromkeys(what for n, what, _, _ in lines if n == name))
        series = {
            model: [next((f for n, w, m, f in lines if (n, w, m) == (name, what, model)), None) for what in whats]
            for model in repair
        }
        height = 1.2 + (0.3 + 0.16 * len(series)) * len(whats)
        draw = partial(draw_intervals, names=whats, series=series, what="% of completions")
        charts += f"<h3>{text(name)}</h3>" + chart(draw, 8, height, f"Errors noticed and repaired on {name}, in %")
    head = ("benchmark", "share", "model", "%", "95 % interval", "n")
    rows = [(name, what, model, percent(f["mean"]), span(f), f["n"]) for name, what, model, f in lines]
    body = charts + folded("As a table", table(head, rows, range(3, 6))) if rows else ""
    return section("repair", "Are errors noticed and repaired?", body)
