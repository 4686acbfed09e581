"""A finished curation by hand: look at rows, weigh the score anew, compare, export. `explore.ipynb` calls these.

    make explore RECIPE=demo
    from curation.explore import load, reweigh

    run = load("runs/demo")
    other = reweigh(run, {"length": 1.0})

Nothing here samples, and only `export` writes, where you say so. Tables are pandas frames, in which control characters
are written out.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.folder import Folder, read_folder
from curation.stage import writes
from curation.stages.score import score
from eval.report.listed import read_choice, score_parts
from eval.view import serve
from limo.data import Example, Row, parsed, read_jsonl, write_jsonl, write_parquet
from limo.errors import UserError, visible
from limo.recipe import bind, suggest

if TYPE_CHECKING:
    import pandas as pd

MAIN = ("score", "tokens", "pass_rate", "source", "teacher")  # columns that a person reads first
LONGEST = 1500  # characters of a text in a table


@dataclass(frozen=True)
class Run(Folder):
    """A curation's folder and what it chose."""

    chosen: list[Example]

    @property
    def by(self) -> str:
        """The number that its chains were chosen by."""
        return read_choice(self.stages.values())[0]


@dataclass(frozen=True)
class Choice:
    """What another choice from the same candidates would be."""

    chosen: list[Example]
    stays: list[Example]  # chosen by both
    comes: list[Example]  # only by this one
    goes: list[Example]  # only by the run

    def __repr__(self) -> str:
        """In one line."""
        return f"{len(self.chosen)} chosen: {len(self.stays)} stay, {len(self.comes)} come, {len(self.goes)} go"


class Text(str):
    """A text that a notebook shows in its lines."""

    def __repr__(self) -> str:
        return str(self)


def load(folder: str | Path | None = None) -> Run:
    """A finished curation: of this folder, else of $LIMO_RUN, else the newest below `runs/`."""
    path = Path(folder or os.environ.get("LIMO_RUN") or _newest())
    if not (path / "curated.jsonl").is_file():
        raise UserError(f"no finished curation in '{path}': python -m curation.run recipe=<name> makes one")
    return Run(**vars(read_folder(path)), chosen=list(read_jsonl(path / "curated.jsonl")))


def _newest() -> Path:
    here = Path.cwd()  # a notebook's own folder, or the one it was started from
    found = [path for folder in (here, here.parent) for path in folder.glob("runs/*/curated.jsonl")]
    if not found:
        raise UserError(
            "there is no run below runs/ yet: python -m curation.run recipe=demo makes one, or set LIMO_RUN"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def funnel(run: Run) -> "pd.DataFrame":
    """The stages with rows in and out and the reasons for the rest, as a table."""
    import pandas as pd

    table = pd.DataFrame(run.funnel)[["stage", "in", "out", "tokens", "seconds", "reasons"]]
    table["reasons"] = [", ".join(f"{reason}: {count:,}" for reason, count in r.items()) for r in table["reasons"]]
    return _visible(table.rename(columns={"reasons": "dropped"}))


def _visible(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A frame as a terminal may show it: pandas prints control characters as they are."""

    def write_out(value: Any) -> Any:
        return visible(value) if isinstance(value, str) else value

    return frame.map(write_out).rename(index=write_out, columns=write_out)


def table(rows: Sequence[Example]) -> "pd.DataFrame":
    """Rows as a table: id, source, question, answer, chain, its characters, every score, plain notes."""
    import pandas as pd

    found = []
    for row in rows:
        notes = {name: value for name, value in row.notes.items() if isinstance(value, str | int | float)}
        plain = {"id": row.id, "source": row.source, "question": row.question, "answer": row.answer}
        found.append({**plain, "chain": row.completion, "characters": len(row.completion), **row.scores, **notes})
    return _visible(pd.DataFrame(found))


def show(rows: Sequence[Example], by: str = "", n: int = 10) -> Any:
    """The first rows to read: whole questions and chains in lines, sorted by a column (`-score`: the highest first).

    Raises UserError for a column that no row has.
    """
    if not rows:
        return Text("no row")
    frame, column = table(rows), by.removeprefix("-")
    if column and column not in frame.columns:
        raise UserError(f"no row has a column '{column}'{suggest(column, list(frame.columns))}")
    frame = frame.sort_values(column, ascending=not by.startswith("-"), kind="stable") if column else frame
    kept = [name for name in ("id", "question", "chain", "answer", column, *MAIN) if name in frame.columns]
    shown = frame[list(dict.fromkeys(kept))].head(n).copy()
    for name in ("question", "chain"):
        shown[name] = [text if len(text) <= LONGEST else f"{text[:LONGEST]} …" for text in shown[name]]
    left = {"text-align": "left", "vertical-align": "top", "white-space": "pre-wrap", "min-width": "4em"}
    return shown.style.format(escape="html", precision=3, na_rep="").set_properties(**left).hide(axis="index")


def scatter(run: Run, x: str = "characters", y: str = "") -> Any:
    """Two numbers of the candidates against each other, the chosen ones marked, as matplotlib axes.

    `y` is the number that chains were chosen by unless another one is named.
    Raises UserError for a column that no row has.
    """
    y, chosen = y or run.by, {row.id for row in run.chosen}
    rows = table(candidates(run, next((name for name, node in run.stages.items() if node.get("by") == y), "")))
    for name in (x, y):
        if name not in rows.columns:
            raise UserError(f"no row has a column '{name}'{suggest(name, list(rows.columns))}")
    kept = rows["id"].isin(chosen)
    axes = rows[~kept].plot.scatter(x, y, s=8, color="0.6", label=f"not chosen ({sum(~kept):,})", figsize=(6, 4))
    return rows[kept].plot.scatter(x, y, s=14, color="tab:blue", label=f"chosen ({sum(kept):,})", ax=axes)


def sliders(run: Run) -> Any:
    """A slider for each weight of the score: what would be chosen. Needs ipywidgets, else it says so in a text."""
    try:
        from ipywidgets import FloatSlider, interactive  # type: ignore[import-untyped]
    except ImportError:
        return Text("pip install ipywidgets, and there is a slider here for each weight of the score")
    weights = _score_node(run)["weights"]
    if not weights:
        return Text("this run chose by no weighted score: there is nothing to weigh")

    def choose(**asked: float) -> Any:
        total = sum(map(abs, asked.values()))
        return reweigh(run, {name: value / total for name, value in asked.items()}) if total else Text("all are 0")

    make = {
        name: FloatSlider(value, min=-1, max=1, step=0.05, continuous_update=False) for name, value in weights.items()
    }
    return interactive(choose, **make)


def probe(run: Run) -> Any:
    """Which flaws each score notices: % of pairs in which it prefers the untouched chain; 50 is blind.

    Where `limo probe` has not run, a text that says so.
    """
    import pandas as pd

    path = run.path / "probe.json"
    if not path.is_file():
        return Text("limo probe recipe=<name> measures in minutes which flaws each score notices")
    scores = parsed(path.read_bytes())["scores"]
    rows = {name: {flaw: round(100 * found["share"]) for flaw, found in by.items()} for name, by in scores.items()}
    return _visible(pd.DataFrame.from_dict(rows, orient="index"))


def frame(run: Run, height: int = 820) -> Any:
    """`limo view` of the run inside the notebook, as long as its kernel lives.

    It is served on the kernel's machine: forward its port if your browser is elsewhere.
    """
    from IPython.display import IFrame

    server = serve([run.path], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return IFrame(f"http://localhost:{server.server_address[1]}/", width="100%", height=height)


def look(run: Run, row: Example | str) -> Text:
    """A row, or that of an id: problem, chain, answer, and the score taken apart.

    Raises UserError if no chosen row has that id.
    """
    if isinstance(row, str):
        known = {r.id: r for r in run.chosen}
        if row not in known:
            raise UserError(f"no chosen row is called '{row}'{suggest(row, known)}")
        row = known[row]
    parts = score_parts(row.scores, _score_node(run)["weights"])
    shares = "\n".join(f"{p.name} {p.value:.3g}: {p.share:.3f} of the score" for p in parts)
    return Text(visible(f"{row.id}\n\n{row.question}\n\n{row.completion}\n\nanswer {row.answer}\n{shares}"))


def candidates(run: Run, stage: str = "") -> list[Example]:
    """The rows that the choice was made from, those that were not chosen included; or those before another stage."""
    path = run.before(stage or _choice(run))
    if not path.is_file():
        raise UserError(f"{path} is gone, from which the choice was made: run the curation again")
    return list(read_jsonl(path))


def _choice(run: Run) -> str:
    """The name of the stage that chooses."""
    return str(run.settings.get("controls", {}).get("source", list(run.stages)[-1]))


def _score_node(run: Run) -> dict[str, Any]:
    """The stage that adds the score, with its settings."""
    nodes = (dict(node) for node in run.stages.values() if writes(node, "score") and "weights" in node)
    return next(nodes, {"words": ["en"], "weights": {}, "scaling": "rank"})


def reweigh(run: Run, weights: Mapping[str, float], words: list[str] | None = None, **choice: Any) -> Choice:
    """What would be chosen if the score were weighed otherwise, by the run's own stages from the choice on.

    Args: `weights` as of `curation.stages.score.score`, `words` its lists where others are wanted, `choice` settings of
    the stage that chooses, such as k=100. Raises UserError as these stages do, and for a run whose stages are gone.
    """
    node, names = _score_node(run), list(run.stages)
    rows: list[Row] = list(
        score(candidates(run), weights=dict(weights), words=words or node["words"], scaling=node["scaling"])
    )
    for name in names[names.index(_choice(run)) :]:
        settings = {**run.stages[name], **(choice if name == _choice(run) else {})}
        rows = list(bind(settings, f"curate.stages.{name}")([row for row in rows if isinstance(row, Example)]))
    kept = [row for row in rows if isinstance(row, Example)]
    before, after = {row.id for row in run.chosen}, {row.id for row in kept}
    return Choice(
        kept,
        [row for row in kept if row.id in before],
        [row for row in kept if row.id not in before],
        [row for row in run.chosen if row.id not in after],
    )


def control(run: Run, kind: str = "random") -> list[Example]:
    """A control set of the run: random, longest, easiest or random_tokens. Raises UserError if it was not made."""
    made = {path.stem: path for path in sorted((run.path / "controls").glob("*.jsonl"))}
    if kind not in made:
        raise UserError(f"the run has no control set '{kind}'{suggest(kind, made)}; it has {', '.join(made) or 'none'}")
    return list(read_jsonl(made[kind]))


def compare(
    rows: Sequence[Example], others: Sequence[Example], names: tuple[str, str] = ("these", "those")
) -> "pd.DataFrame":
    """Two sets beside each other: rows, rows in both, the mean length and the mean of each score that both have."""
    import pandas as pd

    one, two = table(rows), table(others)
    shared = len(set(one["id"]) & set(two["id"]))
    found: dict[str, tuple[float, float]] = {"rows": (len(one), len(two)), "of which in both": (shared, shared)}
    for name in ["characters", *dict.fromkeys(name for row in rows for name in row.scores)]:
        if (name := visible(name)) in two.columns:
            found[f"mean {name}"] = (one[name].mean(), two[name].mean())
    return _visible(pd.DataFrame.from_dict(found, orient="index", columns=list(names)))


def plot(
    rows: Sequence[Example], others: Sequence[Example], by: str = "score", names: tuple[str, str] = ("these", "those")
) -> Any:
    """The distributions of one number in two sets, as matplotlib axes. Raises UserError if no row has it."""
    import pandas as pd

    groups = [[row.scores[by] for row in some if by in row.scores] for some in (rows, others)]
    if not any(groups):
        raise UserError(f"no row has a score '{by}'{suggest(by, {name for row in rows for name in row.scores})}")
    columns = {f"{name} ({len(group):,})": pd.Series(group) for name, group in zip(names, groups, strict=True)}
    return pd.DataFrame(columns).plot.hist(bins=20, alpha=0.6, xlabel=by, figsize=(5, 3))


def dropped(run: Run, reason: str = "", limit: int = 100) -> "pd.DataFrame":
    """The first rows that were dropped, those for one reason if it is named: id, stage, reason, detail, question."""
    import pandas as pd

    found: list[dict[str, str]] = []
    with (run.path / "dropped.jsonl").open("rb") as lines:
        for line in map(parsed, lines):
            if len(found) < limit and reason in ("", line["reason"]):
                data = line["data"] if isinstance(line["data"], dict) else {}
                asked = Example.from_json(data).question if "prompt" in data else ""
                found.append({**{key: line[key] for key in ("id", "stage", "reason", "detail")}, "question": asked})
    return _visible(pd.DataFrame(found, columns=["id", "stage", "reason", "detail", "question"]))


def export(rows: Sequence[Example], path: str | Path) -> Path:
    """Write rows to a .jsonl file, which `limo.train` takes as `train.data`, or to a .parquet file in TRL's format.

    Raises UserError for another ending, and where there is no row.
    """
    path = Path(path)
    if not rows or path.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"'{path.name}' must end in .jsonl or .parquet" if rows else "there is no row to export")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
    else:
        write_parquet(path, rows)
    return path
