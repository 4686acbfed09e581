"""A stage over parts of its rows, on any engine that can call a function with numbers.

    python -m curation.run recipe=limo '+curate.on={_target_: curation.distributed.RayData, parts: 256, address: auto}'

The rows' file is cut into parts by bytes, each part's result is a file, and all machines see the folder. A step calls
`task(part)` for each part, on whatever machine; a result appears under its name only once it is whole, so a task that
dies is called again, and a task whose result is there returns at once. Stages run as they are, in one of three ways:

- row by row, on each part: `verify`, `sound`, `decontaminate` and others, and a stage of your own named in `per_row`
- by keys: rows that the stage may relate share a key. Each part writes its keys, each band of keys is searched for
  equal ones, rows joined through any number of keys go to one place, and the stage sees there just what it would
  relate. `distinct` has one band, `near` 21 or 42 (`curation/near.py`), `best` one
- by measuring: each part is measured, the numbers are brought to scale over all, each part gets its own: `score`

What comes out is what a single process gives, in its order, with every reason. Of `near`, only that is compared twice
which shares a key. Left out: `top` and `spread` choose over all rows and need numbers only; one process is enough.
"""

import heapq
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from curation import score
from curation.near import near_keys
from curation.pool import digest, exact_keys
from limo.data import Dropped, Example, Row, dump, parsed, replacing
from limo.parallel import chunked
from limo.recipe import bind

PER_ROW = (
    *("curation.chains.verify", "curation.chains.box_answers", "curation.sound.sound", "curation.score.tokens"),
    *("curation.pool.decontaminate", "curation.ngrams.overlap"),
    *("curation.pages.read", "curation.harvest.stated", "curation.refine.verified"),
)
KEYED = ("curation.pool.distinct", "curation.near.near", "curation.choose.best")
SCORED = "curation.score.score"
CHUNK = 2000  # rows whose keys are made at once

Task = Callable[[int], None]


class Machines(Protocol):
    """An engine that calls tasks."""

    parts: int  # into which a stage's rows are cut
    per_row: Sequence[str]  # stages beside PER_ROW that look at one row at a time, by their dotted paths

    def run(self, task: Task, count: int) -> None:
        """Call `task` with 0 to `count` - 1, in any order, anywhere; again where a machine was lost on the way."""


def kind_of(node: Mapping[str, Any], machines: Machines) -> str:
    """How a stage can be spread over parts: per_row, keyed, scored; empty if it cannot."""
    target = str(node["_target_"])
    if target in PER_ROW or target in machines.per_row:
        return "per_row"
    return "keyed" if target in KEYED else "scored" if target == SCORED else ""


def over_parts(node: Mapping[str, Any], kind: str, rows: Path, folder: Path, machines: Machines) -> Iterator[Row]:
    """What the stage of `node` gives for the rows of a file, in order. `folder` is for what lies in between.

    A run that was stopped goes on with the parts that are not there yet; once all is given the folder is removed.
    """
    job = Job(dict(node), rows.resolve(), folder.resolve(), machines.parts)
    job.make_folders()
    if kind == "per_row":
        machines.run(job.per_row, job.parts)
    elif kind == "keyed":
        machines.run(job.sign, job.parts)
        machines.run(job.meet, len(np.load(job.at("keys", 0), mmap_mode="r")))
        job.group()
        machines.run(job.scatter, job.parts)
        machines.run(job.relate, job.parts)
        machines.run(job.gather, job.parts)
    else:
        machines.run(job.measure, job.parts)
        job.scale()
        machines.run(job.give, job.parts)
    for part in range(job.parts):
        yield from _read(job.at("out", part))
    shutil.rmtree(job.folder)


@dataclass(frozen=True)
class Job:
    """One stage over parts: the tasks, each with a file for each part."""

    node: dict[str, Any]
    rows: Path
    folder: Path
    parts: int

    def make_folders(self) -> None:
        """Make those that tasks write to."""
        for name in ("out", "keys", "met", "places", "sent", "related", "measured", "scaled"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def at(self, name: str, part: int) -> Path:
        """The file of a part."""
        return self.folder / name / (f"{part:05d}.jsonl" if name in ("out", "sent", "related") else f"{part:05d}.npy")

    def part(self, part: int) -> Iterator[Example]:
        """The rows that begin in a part's share of the file's bytes."""
        size = self.rows.stat().st_size
        start, end = (size * at // self.parts for at in (part, part + 1))
        with self.rows.open("rb") as lines:
            if start:
                lines.seek(start - 1)
                lines.readline()  # the rest of a row that begins before
            while lines.tell() < end:
                yield Example.from_json(parsed(lines.readline()))

    def stage(self, rows: Any) -> Iterator[Row]:
        """The stage itself."""
        given: Iterator[Row] = bind(self.node, "curate.stages")(rows)
        return given

    def per_row(self, part: int) -> None:
        """Run the stage on a part."""
        if not self.at("out", part).exists():
            _write(self.at("out", part), self.stage(list(self.part(part))))

    def sign(self, part: int) -> None:
        """Write the keys of a part's rows: (bands, rows)."""
        if self.at("keys", part).exists():
            return
        found = [self._keys(chunk) for chunk in chunked(self.part(part), CHUNK)]
        _save(self.at("keys", part), np.concatenate(found, axis=1) if found else self._keys([])[:, :0])

    def _keys(self, rows: list[Example]) -> np.ndarray:
        target = self.node["_target_"]
        if target.endswith(".best"):
            return np.array([[digest(row.problem) for row in rows]], dtype=np.uint64)
        questions = [row.question for row in rows] or [""]
        if target.endswith(".distinct"):
            return exact_keys(questions)
        return near_keys(questions, self.node["variants"] is not None)

    def meet(self, band: int) -> None:
        """Write which rows share a key of a band, as pairs of neighbours: (n, 2), by position among all rows."""
        if self.at("met", band).exists():
            return
        keys = np.concatenate([np.load(self.at("keys", part), mmap_mode="r")[band] for part in range(self.parts)])
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        _save(self.at("met", band), np.stack([order[same], order[same + 1]], axis=1))

    def group(self) -> None:
        """Join what meets in any band into groups and say which part relates each: -1 for a row that meets none."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        counts = [np.load(self.at("keys", part), mmap_mode="r").shape[1] for part in range(self.parts)]
        met = np.concatenate([np.load(path) for path in sorted((self.folder / "met").glob("*.npy"))])
        size = sum(counts)
        graph = coo_array((np.ones(len(met), dtype=np.int32), (met[:, 0], met[:, 1])), shape=(size, size))
        _, labels = connected_components(graph, directed=False)
        sizes = np.bincount(labels)
        load = [(0, part) for part in range(self.parts)]
        to = np.full(len(sizes), -1, dtype=np.int32)
        for label in np.argsort(-sizes, kind="stable")[: int((sizes > 1).sum())]:  # the largest first, to the emptiest
            rows, part = load[0]
            to[label] = part
            heapq.heapreplace(load, (rows + int(sizes[label]), part))
        for part, found in enumerate(np.split(to[labels], np.cumsum(counts)[:-1])):
            _save(self.at("places", part), found)

    def scatter(self, part: int) -> None:
        """Send each row of a part that meets others to where its group is related."""
        to = np.load(self.at("places", part))
        sent: dict[int, list[str]] = defaultdict(list)
        for at, (row, other) in enumerate(zip(self.part(part), to.tolist(), strict=True)):
            if other >= 0:
                sent[other].append(dump([at, row.to_json()]))
        for other, lines in sent.items():
            with replacing(self._between("sent", other, part)) as file:
                file.writelines(lines)

    def relate(self, part: int) -> None:
        """Run the stage on the rows sent to a part, in their order among all rows."""
        came = [(source, *told) for source in range(self.parts) for told in _sent(self._between("sent", part, source))]
        given = self.stage([Example.from_json(row) for _, _, row in came])
        found = ((source, at, row) for (source, at, _), row in zip(came, given, strict=True))
        for source, rows in groupby(found, key=lambda one: one[0]):
            with replacing(self._between("related", source, part)) as file:
                file.writelines(dump([at, _told(row)]) for _, at, row in rows)

    def gather(self, part: int) -> None:
        """Put what became of a part's rows in their order. A row that meets none stays as it is."""
        if self.at("out", part).exists():
            return
        related = {at: told for other in range(self.parts) for at, told in _sent(self._between("related", part, other))}
        rows = (_row(related[at]) if at in related else row for at, row in enumerate(self.part(part)))
        _write(self.at("out", part), rows)

    def _between(self, name: str, to: int, source: int) -> Path:
        return self.folder / name / f"{to:05d}" / f"{source:05d}.jsonl"

    def measure(self, part: int) -> None:
        """Write the numbers of a part's rows: (columns, rows)."""
        if self.at("measured", part).exists():
            return
        weights = self.node["weights"]
        score.check(weights, self.node["words"], self.node["scaling"])
        found = score.measured(list(self.part(part)), self.node["words"], weights)
        _save(self.at("measured", part), np.stack(list(found.values())))

    def scale(self) -> None:
        """Bring the numbers of all rows to scale, and write each part's: (columns, scaled columns, sum; rows)."""
        weights, parts = self.node["weights"], [np.load(self.at("measured", part)) for part in range(self.parts)]
        values = dict(zip(self._columns(), np.concatenate(parts, axis=1), strict=True))
        weighed, total = score.weighed_sum(values, weights, self.node["scaling"])
        found = np.stack([*values.values(), *weighed.values(), total])
        ends = np.cumsum([part.shape[1] for part in parts])[:-1]
        for part, columns in enumerate(np.split(found, ends, axis=1)):
            _save(self.at("scaled", part), columns)

    def _columns(self) -> list[str]:
        return [*score.TEXT, *(name for name in self.node["weights"] if name not in score.TEXT)]

    def give(self, part: int) -> None:
        """Give a part's rows their numbers."""
        if self.at("out", part).exists():
            return
        columns = np.load(self.at("scaled", part))
        names, weights = self._columns(), list(self.node["weights"])
        values = dict(zip(names, columns, strict=False))
        weighed = dict(zip(weights, columns[len(names) :], strict=False))
        rows = score.scored(self.part(part), values, weighed, columns[-1], self.node["scaling"])
        _write(self.at("out", part), rows)


def _told(row: Row) -> list[Any]:
    return [isinstance(row, Dropped), row.to_json()]


def _row(told: list[Any]) -> Row:
    dropped, fields = told
    return Dropped(**fields) if dropped else Example.from_json(fields)


def _write(path: Path, rows: Iterator[Row]) -> None:
    with replacing(path) as file:
        file.writelines(dump(_told(row)) for row in rows)


def _read(path: Path) -> Iterator[Row]:
    return map(_row, map(parsed, _lines(path)))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _sent(path: Path) -> Iterator[Any]:
    """What one part sent another; no file where it had nothing to send."""
    return map(parsed, _lines(path)) if path.exists() else iter(())


def _save(path: Path, values: np.ndarray) -> None:
    """Write an array so that it appears whole, whoever else writes the same."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
