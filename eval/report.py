"""One page that shows a run: what came in, what was chosen and why, what it changed.

    python -m eval.report recipe=demo

`runs/<name>/report.html` is one file without network needs; whatever a stage has not made yet is left out of it. All
text from rows and completions is data and is escaped. Charts are SVG drawings by matplotlib.
"""

import html
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from limo.data import Example, read_jsonl, replacing
from limo.errors import UserError
from limo.manifest import read_manifest
from limo.progress import clock
from limo.recipe import command

CHOSEN, OTHER = "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermillion: apart for the colour-blind and in grey
LOOKED_AT = 4  # problems of a benchmark whose first completion is on the page
SHOWN = 12  # chains and flipped problems on the page; the files have them all

STYLE = """
:root { --ink: #1b1f24; --paper: #fff; --faint: #667; --line: #d8dbe0; --wash: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --paper: #16191d; --faint: #9aa3ad; --line: #363c44; --wash: #1f242a }
  svg { background: #fff; border-radius: 6px }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
       max-width: 60rem; padding: 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
.faint { color: var(--faint) } .scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td, th { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.number, th.number { text-align: right; white-space: nowrap }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--wash); padding: .7rem; border-radius: 6px;
      margin: .4rem 0; font-size: .875rem }
details { border-bottom: 1px solid var(--line); padding: .4rem 0 } summary { cursor: pointer }
.big { font-size: 1.35rem } .charts { display: flex; flex-wrap: wrap; gap: 1rem }
svg { max-width: 100%; height: auto }
"""


def report(*, out: str) -> Path:
    """Write the report of the run in `out` anew. Raises UserError if there is no such run."""
    if not read_manifest(out):
        raise UserError(f"there is no run in '{out}'. Curate, train or evaluate first")
    path = write_report(Path(out))
    print(path)  # noqa: T201
    return path


def write_report(folder: Path) -> Path:
    """Gather what the run has, and write `report.html` into it."""
    manifest = read_manifest(folder)
    summary = _json(folder / "eval" / "summary.json")
    parts = [
        f"<h1>{_text(folder.name)}</h1><p class=faint>{_text(_subtitle(manifest))}</p>",
        _result(summary),
        _funnel(manifest),
        _distributions(folder),
        _training(folder, manifest),
        _chosen(folder),
        _flips(folder, summary),
        _sampled(manifest),
        _first_completions(folder, summary),
        _manifest(manifest),
    ]
    path = folder / "report.html"
    with replacing(path) as file:
        file.write(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{_text(folder.name)}</title><style>{STYLE}</style>"
            + "\n".join(p for p in parts if p)
            + "</html>\n"
        )
    return path


def _text(value: Any) -> str:
    return html.escape(str(value))


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _rows(path: Path) -> list[Example]:
    return list(read_jsonl(path)) if path.exists() else []


def _subtitle(manifest: Mapping[str, Any]) -> str:
    entries = list(manifest.values())
    seconds, tokens = sum(e["seconds"] for e in entries), sum(e["tokens"] for e in entries)
    return f"{', '.join(dict.fromkeys(n.partition('/')[0] for n in manifest))}; {clock(seconds)}, {tokens:,} tokens"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> str:
    """An HTML table; `numbers` are the columns set right. Cells are escaped."""
    right = set(numbers)

    def line(cells: Sequence[Any], tag: str) -> str:
        marked = (f"<{tag}{' class=number' if i in right else ''}>{_text(c)}</{tag}>" for i, c in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    return f"<div class=scroll><table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table></div>"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _result(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    said = "".join(f"<p class=big>{_text(_sentence(d))}</p>" for d in summary["differences"])
    rows = [
        (
            name,
            model,
            _percent(a["mean"]),
            f"{_percent(a['low'])} to {_percent(a['high'])}",
            a["problems"],
            _percent(a["truncated"]),
            _percent(a["unsure"]),
            f"{a['tokens_per_answer']:.0f}",
        )
        for model, by in summary["accuracy"].items()
        for name, a in by.items()
    ]
    head = ("benchmark", "model", "pass@1 %", "95 % interval", "problems", "cut off %", "unsure %", "tokens")
    chart = _chart(lambda ax: _draw_accuracy(ax, summary), 7, 2.6)
    table = _table(head, sorted(rows), range(2, 8))
    title = "Did it help?" if said else "Accuracy"
    more = _at_k(summary) + _parts(summary) + _unsure(summary)
    return f"<h2>{title}</h2>{said}{chart}{table}{more}"


def _each(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Model, benchmark and its numbers."""
    for model, by in summary["accuracy"].items():
        for name, a in by.items():
            yield model, name, a


def _at_k(summary: Mapping[str, Any]) -> str:
    """pass@k and maj@k, where a benchmark has several completions a problem."""
    rows = [
        (name, model, k, *(f"{_percent(a[w][k]['mean'])} ({_span(a[w][k])})" for w in ("pass_at", "maj_at")))
        for model, name, a in _each(summary)
        for k in a.get("pass_at", {})
    ]
    if not rows:
        return ""
    head = ("benchmark", "model", "k", "pass@k % (95 % interval)", "maj@k % (95 % interval)")
    return f"<h3>Several completions</h3>{_table(head, rows, range(2, 5))}"


def _span(interval: Mapping[str, Any]) -> str:
    return f"{_percent(interval['low'])} to {_percent(interval['high'])}"


def _parts(summary: Mapping[str, Any]) -> str:
    """Accuracy by level, subject and the like."""
    rows = [
        (name, f"{note} {value}", model, _percent(i["mean"]), _span(i), i["n"])
        for model, name, a in _each(summary)
        for note, by in a.get("parts", {}).items()
        for value, i in by.items()
    ]
    if not rows:
        return ""
    head = ("benchmark", "part", "model", "pass@1 %", "95 % interval", "problems")
    order = sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][1].partition(" ")[0]))
    table = _table(head, [rows[at] for at in order], range(3, 6))
    return f"<details><summary>By level, subject and the like</summary>{table}</details>"


def _unsure(summary: Mapping[str, Any]) -> str:
    """What the grader could not tell, with its reason."""
    rows = [
        (name, model, u["id"], u["answer"], u["extracted"], u["why"])
        for model, name, a in _each(summary)
        for u in a.get("unsure_listed", [])
    ]
    if not rows:
        return ""
    head = ("benchmark", "model", "problem", "reference", "extracted", "why the grader is unsure")
    return f"<details><summary>{len(rows)} unsure verdicts</summary>{_table(head, rows)}</details>"


def _sentence(d: Mapping[str, Any]) -> str:
    beyond = d["p"] < 0.05 and (d["low"] > 0 or d["high"] < 0)  # the bootstrap alone is too sure of few problems
    return (
        f"{d['benchmark']}: {d['after']} is {100 * d['mean']:+.1f} points against {d['before']} (95 % interval "
        f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}, n = {d['n']}), "
        f"{'a difference beyond chance' if beyond else 'which may be chance'}."
    )


def _draw_accuracy(ax: Any, summary: Mapping[str, Any]) -> None:
    names = list(next(iter(summary["accuracy"].values())))
    models = list(summary["accuracy"])
    for i, model in enumerate(models):
        values = [summary["accuracy"][model][name] for name in names]
        means = [100 * v["mean"] for v in values]
        errors = [[100 * (v["mean"] - v["low"]) for v in values], [100 * (v["high"] - v["mean"]) for v in values]]
        places = [n + (i - (len(models) - 1) / 2) * 0.3 for n in range(len(names))]
        ax.errorbar(
            means,
            places,
            xerr=errors,
            fmt="os^D"[i % 4],
            color=[OTHER, CHOSEN, "#009e73", "#000"][i % 4],
            capsize=3,
            label=model,
        )
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("accuracy, %, with 95 % interval")
    ax.legend(frameon=False)


def _funnel(manifest: Mapping[str, Any]) -> str:
    funnel = manifest.get("curate", {}).get("results", {}).get("funnel")
    if not funnel:
        return ""
    rows = [
        (
            line["stage"],
            f"{line['in']:,}",
            f"{line['out']:,}",
            ", ".join(f"{reason}: {count:,}" for reason, count in line["reasons"].items()),
            f"{line['tokens']:,}" if line["tokens"] else "",
            f"{line['seconds']:.1f}",
        )
        for line in funnel
    ]
    head = ("stage", "in", "out", "set aside because", "tokens", "seconds")

    def draw(ax: Any) -> None:
        counts = [line["out"] for line in funnel]
        bars = ax.barh([line["stage"] for line in funnel], counts, color=CHOSEN)
        ax.bar_label(bars, [f"{count:,}" for count in counts], padding=3)
        ax.invert_yaxis()
        ax.set_xlabel("rows left")

    return f"<h2>Funnel</h2>{_chart(draw, 7, 0.5 + 0.32 * len(funnel))}{_table(head, rows, (1, 2, 4, 5))}"


def _distributions(folder: Path) -> str:
    chosen = _rows(folder / "curated.jsonl")
    if not chosen:
        return ""
    ids = {row.id for row in chosen}
    others = [row for row in _scored(folder) if row.id not in ids]
    measures = [
        ("score", "score"),
        ("pass_rate", "pass rate of the student's attempts"),
        ("length", "words in the chain"),
    ]
    charts = [
        _chart(partial(_draw_histogram, chosen=chosen, others=others, key=key, label=label), 4, 2.6)
        for key, label in measures
        if all(key in row.scores for row in chosen)
    ]
    return f"<h2>Chosen against the rest</h2><div class=charts>{''.join(charts)}</div>"


def _scored(folder: Path) -> list[Example]:
    """The rows of the last stage that scores: what the choice was made from."""
    funnel = read_manifest(folder).get("curate", {}).get("results", {}).get("funnel", [])
    files = [folder / "stages" / f"{number:02d}-{line['stage']}.jsonl" for number, line in enumerate(funnel)]
    for path in reversed(files[:-1]):
        rows = _rows(path)
        if rows and all("score" in row.scores for row in rows):
            return rows
    return []


def _draw_histogram(ax: Any, chosen: list[Example], others: list[Example], key: str, label: str) -> None:
    import numpy as np

    groups = [[r.scores[key] for r in rows if key in r.scores] for rows in (chosen, others)]
    edges = np.histogram_bin_edges(groups[0] + groups[1], bins=15)
    ax.hist(groups[0], edges, color=CHOSEN, alpha=0.75, label="chosen")
    ax.hist(groups[1], edges, histtype="step", color=OTHER, linewidth=1.6, label="not chosen")
    ax.set_xlabel(label)
    ax.set_ylabel("chains")
    ax.legend(frameon=False)


def _training(folder: Path, manifest: Mapping[str, Any]) -> str:
    path = folder / "train_log.jsonl"
    if not path.exists():
        return ""
    log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    results = manifest.get("train", {}).get("results", {})
    said = ", ".join(f"{key.replace('_', ' ')} {value:,.4g}" for key, value in results.items() if value is not None)

    def curve(key: str, label: str, colour: str) -> Callable[[Any], None]:
        def draw(ax: Any) -> None:
            points = [(e["epoch"], float(e[key])) for e in log if key in e]
            ax.plot(*zip(*points, strict=True), color=colour, marker=".", markersize=4)
            ax.set_xlabel("epoch")
            ax.set_ylabel(label)

        return draw

    charts = [
        _chart(curve(key, label, colour), 4, 2.6)
        for key, label, colour in (
            ("loss", "training loss, nats per token", CHOSEN),
            ("grad_norm", "gradient norm", OTHER),
        )
        if any(key in e for e in log)
    ]
    return f"<h2>Training</h2><p>{_text(said)}</p><div class=charts>{''.join(charts)}</div>"


def _chosen(folder: Path) -> str:
    rows = _rows(folder / "curated.jsonl")
    if not rows:
        return ""
    shown = "".join(_chain(row) for row in rows[:SHOWN])
    said = f"The best {min(SHOWN, len(rows))} of {len(rows)}; all are in curated.jsonl."
    return f"<h2>Chosen chains</h2><p>{said}</p>{shown}"


def _chain(row: Example) -> str:
    scores = ", ".join(f"{name} {value:.3g}" for name, value in row.scores.items())
    return (
        f"<details><summary>{_text(row.id)} <span class=faint>score {row.scores.get('score', 0):.3f}</span> "
        f"{_text(row.question[:110])}</summary><pre>{_text(row.question)}</pre><pre>{_text(row.completion)}</pre>"
        f"<p class=faint>answer {_text(row.answer)}; {_text(scores)}</p></details>"
    )


def _flips(folder: Path, summary: Mapping[str, Any]) -> str:
    parts = []
    for d in summary.get("differences", []):
        rows = [
            {r["id"]: r for r in _lines(folder / "eval" / d[m] / f"{d['benchmark']}.jsonl")}
            for m in ("before", "after")
        ]
        for ids, title in ((d["gained"], "now right"), (d["lost"], "now wrong")):
            if not ids:
                continue
            shown = "".join(_flip(rows[0][i], rows[1][i], d) for i in ids[:SHOWN] if i in rows[0] and i in rows[1])
            parts.append(f"<h3>{_text(d['benchmark'])}: {len(ids)} {title}</h3>{shown}")
    return f"<h2>Problems that flipped</h2>{''.join(parts)}" if parts else ""


def _sampled(manifest: Mapping[str, Any]) -> str:
    """What was evaluated, and how it was drawn."""
    rows = []
    for name, entry in manifest.items():
        if name.startswith("eval/"):
            settings = entry["settings"]
            drawn = settings["sampling"]
            numbers = (drawn["n"], drawn["temperature"], drawn["top_p"], drawn["max_tokens"])
            rows.append((*name.split("/", 2)[1:], settings["model"], *numbers))
    if not rows:
        return ""
    head = ("model", "benchmark", "weights", "n", "temperature", "top p", "max tokens")
    return f"<h2>How it was sampled</h2>{_table(head, rows, range(3, 7))}"


def _first_completions(folder: Path, summary: Mapping[str, Any]) -> str:
    """A look at what was answered: the first problems of each benchmark, the first completion of each."""
    parts = []
    for model, name, _ in _each(summary) if summary else ():
        for row in _lines(folder / "eval" / model / f"{name}.jsonl")[:LOOKED_AT]:
            first = row["completions"][0]
            said = f"{first['verdict']} ({first['how']}): {first['extracted']}, reference {row['answer']}"
            inner = f"<p>{_text(row['question'])}</p><pre>{_text(first['text'])}</pre>"
            parts.append(
                f"<details><summary>{_text(row['id'])}, {_text(model)}: {_text(said[:160])}</summary>{inner}</details>"
            )
    return f"<h2>A look at the answers</h2>{''.join(parts)}" if parts else ""


def _flip(before: Mapping[str, Any], after: Mapping[str, Any], d: Mapping[str, Any]) -> str:
    def side(name: str, row: Mapping[str, Any]) -> str:
        first = row["completions"][0]
        return f"<p class=faint>{_text(d[name])}: {_text(first['verdict'])}</p><pre>{_text(first['text'])}</pre>"

    sides = side("before", before) + side("after", after)
    return f"<details><summary>{_text(before['question'][:120])} = {_text(before['answer'])}</summary>{sides}</details>"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _manifest(manifest: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            "finished" if e["finished"] else "unfinished",
            clock(e["seconds"]),
            f"{e['tokens']:,}",
            e["commit"] or "",
        )
        for name, e in manifest.items()
    ]
    whole = _text(json.dumps(manifest, indent=1, ensure_ascii=False))
    return (
        f"<h2>Manifest</h2>{_table(('step', 'state', 'time', 'tokens', 'commit'), rows, (2, 3))}"
        f"<details><summary>All settings, versions and hashes</summary><pre>{whole}</pre></details>"
    )


def _chart(draw: Callable[[Any], None], width: float, height: float) -> str:
    """An inline SVG of `width` x `height` inches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(
        {
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "limo",
        }
    ):
        figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
        draw(ax)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


if __name__ == "__main__":
    command("report", "eval.report", "Write the report of a run.")
