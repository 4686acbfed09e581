"""The report's part on evaluation: accuracy before and after, by level and subject, which problems flipped."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.charts import chart, draw_intervals
from eval.compare import beyond_chance
from eval.page import LONGEST, folded, percent, prose, section, span, table, text, verdict
from limo.data import parsed

LOOKED_AT = 4  # problems of a benchmark whose completions are on the page
SIDES = 4  # completions side by side
FLIPPED = 12  # problems of each kind; the files have them all
ALL_TEXTS = 2_000_000  # characters of completions outside the viewer; that many are shared by all of them
PARTS_DRAWN = 24  # levels or subjects in a chart

Summary = Mapping[str, Any]


def sentences(summary: Summary) -> list[str]:
    """What the paired differences say, the first thing a reader wants to know."""
    return [_sentence(d) for d in summary.get("differences", [])]


def _sentence(d: Mapping[str, Any]) -> str:
    return (
        f"{d['benchmark']}: {d['after']} is {100 * d['mean']:+.1f} points against {d['before']} (95 % interval "
        f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}, n = {d['n']}), "
        f"{'a difference beyond chance' if beyond_chance(d) else 'which may be chance'}."
    )


def outcome_section(summary: Summary) -> str:
    """Accuracy with intervals; pass@k and maj@k; by level; what the grader could not tell."""
    if not summary:
        return ""
    said = "".join(f"<p class=big>{text(sentence)}</p>" for sentence in sentences(summary))
    rows = [
        (
            name,
            model,
            percent(a["mean"]),
            span(a),
            a["problems"],
            percent(a["truncated"]),
            percent(a["unsure"]),
            f"{a['tokens_per_answer']:.0f}",
        )
        for model, name, a in _each(summary)
    ]
    head = ("benchmark", "model", "pass@1 %", "95 % interval", "problems", "cut off %", "unsure %", "tokens")
    body = said + _accuracy_chart(summary) + table(head, sorted(rows), range(2, 8))
    return section(
        "outcome", "Did it help?" if said else "Accuracy", body + _at_k(summary) + _parts(summary) + _unsure(summary)
    )


def _each(summary: Summary) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Model, benchmark and its numbers."""
    for model, by in summary.get("accuracy", {}).items():
        for name, a in by.items():
            yield model, name, a


def _accuracy_chart(summary: Summary) -> str:
    names = list(dict.fromkeys(name for _, name, _ in _each(summary)))
    series = {model: [by.get(name) for name in names] for model, by in summary["accuracy"].items()}
    said = "; ".join(f"{name}: {model} {percent(a['mean'])} %" for model, name, a in _each(summary))
    return _intervals(names, series, f"Accuracy with 95 % intervals. {said}")


def _intervals(
    names: Sequence[str], series: Mapping[str, Sequence[Mapping[str, float] | None]], said: str, wide: float = 8
) -> str:
    height = 1.2 + (0.3 + 0.16 * len(series)) * len(names)
    return chart(partial(draw_intervals, names=names, series=series), wide, height, said) if names else ""


def _at_k(summary: Summary) -> str:
    """pass@k and maj@k, where a benchmark has several completions a problem."""
    rows = [
        (name, model, k, *(f"{percent(a[w][k]['mean'])} ({span(a[w][k])})" for w in ("pass_at", "maj_at")))
        for model, name, a in _each(summary)
        for k in a.get("pass_at", {})
    ]
    head = ("benchmark", "model", "k", "pass@k % (95 % interval)", "maj@k % (95 % interval)")
    return f"<h3>Several completions</h3>{table(head, rows, range(2, 5))}" if rows else ""


def _parts(summary: Summary) -> str:
    """Accuracy by level, subject and the like: a chart of each, and all of them as a table."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for model, name, a in _each(summary):
        for note, by in a.get("parts", {}).items():
            found.setdefault((name, note), {})[model] = by
    charts, rows = [], []
    for (name, note), models in found.items():
        values = list(dict.fromkeys(value for by in models.values() for value in by))
        if len(values) <= PARTS_DRAWN:
            series = {model: [by.get(value) for value in values] for model, by in models.items()}
            names = [f"{note} {value}" for value in values]
            drawn = _intervals(names, series, f"{name}: accuracy by {note}, with 95 % intervals", 5)
            charts.append(f"<div><h4>{text(name)}, by {text(note)}</h4>{drawn}</div>")
        for value in values:
            for model, by in models.items():
                if i := by.get(value):
                    rows.append((name, f"{note} {value}", model, percent(i["mean"]), span(i), i["n"]))
    if not rows:
        return ""
    whole = table(("benchmark", "part", "model", "pass@1 %", "95 % interval", "problems"), rows, range(3, 6))
    drawn = f"<div class=charts>{''.join(charts)}</div>" if charts else ""
    return f"<h3>By level, subject and the like</h3>{drawn}{folded('As a table', whole)}"


def _unsure(summary: Summary) -> str:
    """What the grader could not tell, with its reason."""
    rows = [
        (name, model, u["id"], u["answer"], u["extracted"], u["why"])
        for model, name, a in _each(summary)
        for u in a.get("unsure_listed", [])
    ]
    head = ("benchmark", "model", "problem", "reference", "extracted", "why the grader is unsure")
    return folded(f"{len(rows)} unsure verdicts", table(head, rows)) if rows else ""


def flips_section(folder: Path, summary: Summary) -> str:
    """The problems that one model solves and the other does not, both completions side by side."""
    parts, share = [], _share(summary)
    for d in summary.get("differences", []):
        wanted = {*d["gained"][:FLIPPED], *d["lost"][:FLIPPED]}
        before, after = (
            {r["id"]: r for r in _lines(folder / "eval" / d[m] / f"{d['benchmark']}.jsonl") if r["id"] in wanted}
            for m in ("before", "after")
        )
        for ids, title in ((d["gained"], "now right"), (d["lost"], "now wrong")):
            known = [i for i in ids[:FLIPPED] if i in before and i in after]
            both = (
                [*_sides(d["before"], before[i], SIDES // 2), *_sides(d["after"], after[i], SIDES // 2)] for i in known
            )
            shown = "".join(_problem(before[i], sides, share) for i, sides in zip(known, both, strict=True))
            more = f", {len(known)} of them here" if len(known) < len(ids) else ""
            if known:
                parts.append(f"<h3>{text(d['benchmark'])}: {len(ids)} {title}{more}</h3>{shown}")
    return section("flips", "Problems that flipped", "".join(parts))


def answers_section(folder: Path, summary: Summary) -> str:
    """A look at what was answered: the first problems of each benchmark, several completions side by side."""
    parts, share = [], _share(summary)
    for model, name, _ in _each(summary):
        for row in _lines(folder / "eval" / model / f"{name}.jsonl", LOOKED_AT):
            parts.append(_problem(row, _sides(model, row, SIDES), share, f"{model} on {name}: "))
    return section("answers", "A look at the answers", "".join(parts))


def _sides(model: str, row: Mapping[str, Any], most: int) -> list[tuple[str, Mapping[str, Any]]]:
    """The first completions of a model, named and numbered where there are several."""
    drawn = row["completions"]
    return [(f"{model} {at}" if len(drawn) > 1 else model, c) for at, c in enumerate(drawn[:most], 1)]


def _problem(
    row: Mapping[str, Any], sides: Sequence[tuple[str, Mapping[str, Any]]], limit: int, before: str = ""
) -> str:
    """One problem of a benchmark, folded: its text, its reference, and completions side by side."""
    marks = " ".join(verdict(c["verdict"]) for _, c in sides)
    shown = "".join(
        f"<div class=side><p>{verdict(c['verdict'])} <b>{text(name)}</b> <span class=faint>extracted "
        f"{text(str(c['extracted'])[:80])}; {text(c['how'])}; {c['tokens']:,} tokens"
        f"{', cut off' if c['finish'] == 'length' else ''}</span></p>{prose(c['text'], limit)}</div>"
        for name, c in sides
    )
    head = f"<summary>{marks} {text(before)}{text(' '.join(row['question'].split())[:120])}</summary>"
    begun = row["notes"].get("begun", {}).get("text", "")  # of a solution that the model went on with
    start = f"<p class=faint>begun with</p>{prose(begun, limit)}" if begun else ""
    inner = f"{prose(row['question'], limit)}{start}<p class=faint>reference {text(row['answer'][:300])}</p>"
    return f"<details>{head}{inner}<div class=sides>{shown}</div></details>"


def _share(summary: Summary) -> int:
    """Characters that each text may have, so that those of many benchmarks do not fill the page."""
    flipped = sum(min(len(d[way]), FLIPPED) for d in summary.get("differences", []) for way in ("gained", "lost"))
    texts = (SIDES + 1) * flipped + (SIDES + 1) * LOOKED_AT * len(list(_each(summary)))
    return max(1000, min(LONGEST, ALL_TEXTS // max(texts, 1)))


def sampled_section(manifest: Mapping[str, Any]) -> str:
    """What was evaluated, and how it was drawn."""
    rows = []
    for name, entry in manifest.items():
        if name.startswith("eval/"):
            settings = entry["settings"]
            drawn = settings["sampling"]
            numbers = (drawn["n"], drawn["temperature"], drawn["top_p"], drawn["max_tokens"])
            rows.append((*name.split("/", 2)[1:], settings["model"], *numbers))
    head = ("model", "benchmark", "weights", "n", "temperature", "top p", "max tokens")
    return section("sampled", "How it was sampled", table(head, rows, range(3, 7)) if rows else "")


def _lines(path: Path, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of an evaluation, at most `limit`; none if there is no such file."""
    if path.is_file():
        with path.open("rb") as lines:
            for number, line in enumerate(lines):
                if limit is not None and number >= limit:
                    return
                yield parsed(line)
