"""Runs one stage over a file of rows: in this process, in local processes, or on Ray.

    python -m curation.run recipe=limo '+curate.on={_target_: curation.runner.RayData, parts: 256, address: auto}'

A stage of scope `row` gets batches of rows; if there are many, in one process per core. `on` sends it to Ray instead.
All other stages, and stages that sample, run in this process. The rows, their order and the metrics are the same as in
one process.

In a stage of scope `row` each row has a time budget (`PerRow`): a timer restarts whenever the stage takes its next row.
If it runs out, the rows are given to the stage one by one, and rows that exceed the budget alone are dropped. The
set-up of a stage, before its first row, is not limited, nor is a stage that samples: paid work is never interrupted.
The timer is a signal, which Python handles between its own instructions and inside regular expressions. So it cannot
end one long call of a C library (`10**10**9`) before that returns, nor a stage that catches `BaseException`; and there
is no limit if the stage does not run in its process's main thread.

Left out: stages that relate many problems (deduplication, scores, choices) always run on one machine. For tens of
millions of rows use datatrove or Ray's readers first.
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
FEW = 16  # up to so many batches no processes are started

Function = Callable[[Iterable[Example]], Iterable[Row]]
Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PerRow:
    """Limits for each row in each stage. A row that exceeds one is dropped."""

    seconds: PositiveFloat = 30.0  # of processor time, and PATIENCE times that by the clock; not in stages that sample
    characters: PositiveInt = 2**24  # length of the row as a line of JSON


@dataclass(frozen=True)
class RayData:
    """Runs stages on a Ray cluster whose machines all see the run's folder under the same path."""

    parts: PositiveInt  # number of parts into which the rows are cut: a few for each core of the cluster
    address: str | None  # of the cluster, or auto; null for this machine alone


def apply(name: str, node: Node, path: Path, on: RayData | None = None, per_row: PerRow | None = None) -> Iterator[Row]:
    """Yield a stage's results for the rows of a file, in order. Metrics are merged into those of this process."""
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


Given = tuple[Node, str, PerRow]  # a stage, its place in the recipe, the limits on a row
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
    """Run the stage on Ray Data. Each task reads its part of the file; rows are ordered by the offset of their line."""
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
            result = str(known)  # returned as a value, since Ray keeps only the text of an exception
        return {"at": [int(min(batch["at"], default=0))], "out": [pickle.dumps(result)]}

    with _ray(on.address) as ray:
        rows = ray.data.range(parts, override_num_blocks=parts).map_batches(read, batch_size=1)
        for row in rows.map_batches(call, batch_size=None).sort("at").iter_rows():
            result = pickle.loads(row["out"])  # pickled by our task
            if isinstance(result, str):
                raise UserError(result)
            yield result


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file that begin between two offsets. Yields each with its offset."""
    with path.open("rb") as lines:
        if start:
            lines.seek(start - 1)
            lines.readline()  # the rest of a line that begins before
        while (at := lines.tell()) < end:
            yield at, lines.readline()


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Connect to Ray and switch off its progress bars."""
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
    """The results of a stage for `rows`; a row that exceeds its limits is dropped."""
    try:
        with collecting() as metrics, limited() as restart:
            found = list(function(_Fed(rows, lambda: restart(per_row.seconds))))
    except (Overrun, MemoryError) as error:  # the metrics of these rows are not merged: they run again, or are dropped
        if len(rows) > 1:
            return [out for row in rows for out in run_bounded(function, [row], per_row)]
        if isinstance(error, MemoryError):
            return [drop(rows[0], "takes too much memory")]
        limit = f"more than curate.per_row.seconds={per_row.seconds:g} of processor time"
        return [drop(rows[0], "takes too long", limit)]
    merge(metrics)
    return found
