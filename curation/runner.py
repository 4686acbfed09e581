"""One stage over a file of rows: in this process, on local processes, or on Ray.

    python -m curation.run recipe=limo '+curate.on={_target_: curation.runner.RayData, parts: 256, address: auto}'

A stage of scope `row` gets batches of rows; of many rows, in as many processes as there are cores. `on` sends it to Ray
instead. All other stages, and those that sample, run in this process. The rows, their order and the metrics are those
of one process.

A row of a stage of scope `row` has a time budget (`PerRow`): a timer starts anew whenever the stage takes its next row.
Where it runs out, the rows are given to the stage one by one, and those that overrun alone are dropped. Setting up a
stage, before its first row, is not limited, nor is a stage that samples: what was paid for is never interrupted. The
timer is a signal, which Python handles between its own instructions and inside regular expressions. So it cannot end
one long call of a C library (`10**10**9`) before that returns, nor a stage that catches `BaseException`; and there is
no limit where the stage does not run in its process's main thread.

Left out: stages that relate many problems (deduplication, scores, choices) run on one machine. For tens of millions of
rows use datatrove or Ray's own readers first.
"""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from curation.folder import Rows
from curation.parallel import chunked, spread
from curation.stage import Metric, about_node, collecting, drop, merge
from limo.data import Example, Row, parse_row
from limo.errors import UserError, explain, need_package
from limo.processes import Overrun, limited
from limo.recipe import bind

BATCH = 250  # rows of one call
FEW = 16  # batches that are not worth starting processes for

Function = Callable[[Iterable[Example]], Iterable[Row]]
Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PerRow:
    """What one row may take in any stage; a row that takes more is dropped."""

    seconds: PositiveFloat = 30.0  # of processor time, and PATIENCE times that by the clock, where nothing is sampled
    characters: PositiveInt = 2**24  # as a line of JSON


@dataclass(frozen=True)
class RayData:
    """Where stages run: on a Ray cluster whose machines all see the run's folder under one path."""

    parts: PositiveInt  # into which the rows are cut: a few for each core of the cluster
    address: str | None  # of the cluster; auto, or null for this machine alone


def apply(name: str, node: Node, path: Path, on: RayData | None = None, per_row: PerRow | None = None) -> Iterator[Row]:
    """What a stage yields for the rows of a file, in order. Metrics are merged into those of this process."""
    facts, where = about_node(node), f"curate.stages.{name}"
    given = dict(node), where, per_row or PerRow()
    if facts.samples or facts.scope == "pool":
        yield from bind(node, where)(Rows(path))
    elif on:
        yield from _merged(_on_ray(given, path.resolve(), on))
    else:
        with path.open("rb") as lines:
            few = sum(1 for _ in islice(lines, FEW * BATCH + 1)) <= FEW * BATCH
            lines.seek(0)
            processes = 1 if few else None
            yield from _merged(spread(_call, chunked(lines, BATCH), start=_begin, given=given, processes=processes))


Given = tuple[Node, str, PerRow]  # a stage, its place in the recipe, what a row may take
Result = tuple[list[Row], dict[str, Metric]]
_given: Given


def _begin(*given: Any) -> None:
    global _given
    _given = given
    if multiprocessing.parent_process() is not None:
        os.environ["LIMO_CORES"] = "1"  # the processes fill the cores


def _call(lines: list[bytes]) -> Result:
    """Run the stage on a batch of lines. Its metrics come with the rows, from any process."""
    node, where, per_row = _given
    rows = [parse_row(line, f"the rows for {where}") for line in lines]
    with collecting() as metrics:
        return run_bounded(bind(node, where), rows, per_row), metrics


def _merged(results: Iterable[Result]) -> Iterator[Row]:
    for rows, metrics in results:
        merge(metrics)
        yield from rows


def _on_ray(given: Given, path: Path, on: RayData) -> Iterator[Result]:
    """The stage on Ray Data. Each task reads its share of the file's bytes; a row's place is where its line begins."""
    size, parts = path.stat().st_size, on.parts

    def read(batch: dict[str, Any]) -> dict[str, list[Any]]:
        shares = ((size * at // parts, size * (at + 1) // parts) for at in batch["id"].tolist())
        found = list(chain.from_iterable(_lines(path, *share) for share in shares))
        return {"at": [at for at, _ in found], "line": [line for _, line in found]}

    def call(batch: Any) -> dict[str, list[Any]]:
        os.environ["LIMO_CORES"] = "1"  # a task is one process; Ray fills the cores
        _begin(*given)
        result: Result | str
        try:
            result = _call(list(batch["line"]))
        except Exception as error:
            if not (known := explain(error)):
                raise
            result = str(known)  # as a value: of an exception Ray keeps only the text
        return {"at": [int(min(batch["at"], default=0))], "out": [pickle.dumps(result)]}

    with _ray(on.address) as ray:
        rows = ray.data.range(parts, override_num_blocks=parts).map_batches(read, batch_size=1)
        for row in rows.map_batches(call, batch_size=None).sort("at").iter_rows():
            result = pickle.loads(row["out"])  # of a task of ours
            if isinstance(result, str):
                raise UserError(result)
            yield result


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines that begin between two places of a file, each with its place."""
    with path.open("rb") as lines:
        if start:
            lines.seek(start - 1)
            lines.readline()  # the rest of a line that begins before
        while (at := lines.tell()) < end:
            yield at, lines.readline()


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected, without its progress bars."""
    need_package("ray", "ray", "on=ray")
    import ray
    import ray.data

    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"cannot reach a Ray cluster at '{address}': {error}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


class _Fed:
    """Rows that restart the timer as they are taken."""

    def __init__(self, rows: Iterable[Example], restart: Callable[[], None]) -> None:
        self.rows, self.restart = rows, restart

    def __iter__(self) -> Iterator[Example]:
        for row in self.rows:
            self.restart()
            yield row
        self.restart()


def run_bounded(function: Function, rows: list[Example], per_row: PerRow) -> list[Row]:
    """What a stage yields for `rows`; a row that overruns its budget is dropped."""
    try:
        with collecting() as metrics, limited() as restart:
            found = list(function(_Fed(rows, lambda: restart(per_row.seconds))))
    except (Overrun, MemoryError) as error:  # the metrics of these rows are not merged: they are done again, or dropped
        if len(rows) > 1:
            return [out for row in rows for out in run_bounded(function, [row], per_row)]
        if isinstance(error, MemoryError):
            return [drop(rows[0], "takes too much memory")]
        limit = f"more than curate.per_row.seconds={per_row.seconds:g} of processor time"
        return [drop(rows[0], "takes too long", limit)]
    merge(metrics)
    return found
