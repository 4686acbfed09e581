"""Functions to explore a finished curation: read rows, compare sets, change the score's weights. For `explore.ipynb`.

    make explore RECIPE=demo
    from curation.explore import load, reweigh, show, table

    run = load("runs/demo")
    table(run.chosen).describe(), table(run.control("random")).describe()
    other = reweigh(run, {"length": 1.0})

Tables are pandas frames, in which control characters are escaped. Nothing here samples or writes. `limo view` shows
every row of a run, dropped rows and answers included.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.folder import Folder, read_folder
from curation.stage import writes
from curation.stages.score import score
from limo.data import Example, Row, read_jsonl
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
    def source(self) -> str:
        """The name of the first choosing stage; its input rows are the candidates."""
        return str(self.settings.get("controls", {}).get("source", list(self.stages)[-1]))

    def candidates(self, stage: str = "") -> list[Example]:
        """The rows that the choice was made from, or the input of another stage. Raises UserError if they are gone."""
        path = self.before(stage or self.source)
        if not path.is_file():
            raise UserError(f"{path} is gone, from which the choice was made: run the curation again")
        return list(read_jsonl(path))

    def control(self, kind: str) -> list[Example]:
        """A control set, such as random. Raises UserError if it was not made."""
        made = {path.stem: path for path in sorted((self.path / "controls").glob("*.jsonl"))}
        if kind not in made:
            listed = ", ".join(made) or "none"
            raise UserError(f"the run has no control set '{kind}'{suggest(kind, made)}; it has {listed}")
        return list(read_jsonl(made[kind]))


@dataclass(frozen=True)
class Choice:
    """Another choice from the same candidates, compared with the run's."""

    chosen: list[Example]
    stays: list[Example]  # chosen by both
    comes: list[Example]  # chosen only by this choice
    goes: list[Example]  # chosen only by the run

    def __repr__(self) -> str:
        """One line about the choice."""
        return f"{len(self.chosen)} chosen: {len(self.stays)} stay, {len(self.comes)} come, {len(self.goes)} go"


def load(folder: str | Path | None = None) -> Run:
    """Open a finished curation: that in `path`, otherwise in $LIMO_RUN, otherwise the newest one below `runs/`."""
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


def _visible(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A frame with control characters escaped, since pandas prints them unchanged."""

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
        return "no row"
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


def _score_node(run: Run) -> dict[str, Any]:
    """The stage that adds the score, with its settings."""
    nodes = (dict(node) for node in run.stages.values() if writes(node, "score") and "weights" in node)
    return next(nodes, {"words": ["en"], "weights": {}, "scaling": "rank"})


def reweigh(run: Run, weights: Mapping[str, float], words: list[str] | None = None, **choice: Any) -> Choice:
    """Repeat the choice with other weights of the score: applies the run's stages from the first choosing stage on.

    Args: `weights` are those of `curation.stages.score.score`, `words` replaces the word lists, and `choice` holds
    settings of the first choosing stage, such as k=100. Raises UserError as these stages do, and for a run whose stage
    files are gone.
    """
    node, names = _score_node(run), list(run.stages)
    rows: list[Row] = list(
        score(run.candidates(), weights=dict(weights), words=words or node["words"], scaling=node["scaling"])
    )
    for name in names[names.index(run.source) :]:
        settings = {**run.stages[name], **(choice if name == run.source else {})}
        rows = list(bind(settings, f"curate.stages.{name}")([row for row in rows if isinstance(row, Example)]))
    kept = [row for row in rows if isinstance(row, Example)]
    before, after = {row.id for row in run.chosen}, {row.id for row in kept}
    return Choice(
        kept,
        [row for row in kept if row.id in before],
        [row for row in kept if row.id not in before],
        [row for row in run.chosen if row.id not in after],
    )
