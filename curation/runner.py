"""One stage over a file of rows: in this process, on local processes, or on Ray.

    python -m curation.run recipe=limo '+curate.on={_target_: curation.runner.RayData, parts: 256, address: auto}'

A stage of scope `row` gets batches of rows; of many rows, in as many processes as there are cores. `on` sends it to Ray
instead, and a stage of scope `problem` too, grouped by `Example.problem`. All other stages, and those that sample, run
in this process. The rows, their order and the metrics are those of one process. Rows that take too long are dropped
(`curation/bounded.py`).

Left out: stages that relate many problems (deduplication, scores, choices) run on one machine. For tens of millions of
rows use datatrove or Ray's own readers first.
"""

import multiprocessing
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from curation.bounded import PerRow, run_bounded, run_problems
from curation.folder import Rows
from curation.parallel import chunked, spread
from curation.stage import about_node
from curation.stage_metrics import Metric, merge, take
from limo.data import Row, parse_row, parsed
from limo.errors import UserError, explain, need_package
from limo.recipe import bind

BATCH = 250  # rows of one call
FEW = 16  # batches that are not worth starting processes for

Node = Mapping[str, Any]


@dataclass(frozen=True)
class RayData:
    """Where stages run: on a Ray cluster whose machines all see the run's folder under one path."""

    parts: int  # into which the rows are cut: a few for each core of the cluster
    address: str | None  # of the cluster; auto, or null for this machine alone

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise UserError(f"on.parts must be at least 1, not {self.parts}")


def apply(name: str, node: Node, path: Path, on: RayData | None = None, per_row: PerRow | None = None) -> Iterator[Row]:
    """What a stage yields for the rows of a file, in order. Metrics are merged into those of this process."""
    facts, where = about_node(node), f"curate.stages.{name}"
    given = dict(node), where, per_row or PerRow(), facts.scope == "problem"
    if facts.samples or facts.scope == "pool":
        yield from bind(node, where)(Rows(path))
    elif on:
        yield from _merged(_on_ray(given, path.resolve(), on))
    elif facts.scope == "problem":
        yield from run_problems(bind(node, where), Rows(path), given[2])
    else:
        with path.open("rb") as lines:
            few = sum(1 for _ in islice(lines, FEW * BATCH + 1)) <= FEW * BATCH
            lines.seek(0)
            processes = 1 if few else None
            yield from _merged(spread(_call, chunked(lines, BATCH), start=_begin, given=given, processes=processes))


# A stage, its place in the recipe, what a row may take, whether the rows of a call are one problem
Given = tuple[Node, str, PerRow, bool]
Result = tuple[list[Row], dict[str, Metric]]
_given: Given


def _begin(*given: Any) -> None:
    global _given
    _given = given
    if multiprocessing.parent_process() is not None:
        os.environ["LIMO_CORES"] = "1"  # the processes fill the cores


def _call(lines: list[bytes]) -> Result:
    """Run the stage on a batch of lines. Its metrics come with the rows, from any process."""
    node, where, per_row, together = _given
    before = take()
    try:
        rows = [parse_row(line, f"the rows for {where}") for line in lines]
        return run_bounded(bind(node, where), rows, per_row, together), take()
    finally:
        merge(before)


def _merged(results: Iterable[Result]) -> Iterator[Row]:
    for rows, metrics in results:
        merge(metrics)
        yield from rows


def _on_ray(given: Given, path: Path, on: RayData) -> Iterator[Result]:
    """The stage on Ray Data. Each task reads its share of the file's bytes; a row's place is where its line begins."""
    size, parts, grouped = path.stat().st_size, on.parts, given[3]

    def read(batch: dict[str, Any]) -> dict[str, list[Any]]:
        shares = ((size * at // parts, size * (at + 1) // parts) for at in batch["id"].tolist())
        found = list(chain.from_iterable(_lines(path, *share) for share in shares))
        problems = [parsed(line).get("problem") or "" for _, line in found] if grouped else [""] * len(found)
        return {"at": [at for at, _ in found], "line": [line for _, line in found], "problem": problems}

    def call(batch: Any) -> dict[str, list[Any]]:
        os.environ["LIMO_CORES"] = "1"  # a task is one process; Ray fills the cores
        _begin(*given)
        try:
            rows, metrics = _call(list(batch["line"]))
        except Exception as error:
            if not (known := explain(error)):
                raise
            return {
                "at": [-1],
                "out": [pickle.dumps(str(known))],
            }  # as a value: of an exception Ray keeps only the text
        if not grouped:
            return {"at": [int(min(batch["at"], default=0))], "out": [pickle.dumps((rows, metrics))]}
        places = [int(at) for at in batch["at"]]
        assert len(rows) == len(places), f"{given[1]} yields {len(rows)} rows for {len(places)} of a problem"
        alone = [pickle.dumps(([row], metrics if number == 0 else {})) for number, row in enumerate(rows)]
        return {"at": places, "out": alone}

    with _ray(on.address) as ray:
        rows = ray.data.range(parts, override_num_blocks=parts).map_batches(read, batch_size=1)
        if grouped:
            made = rows.groupby("problem").map_groups(call, batch_format="numpy")
        else:
            made = rows.map_batches(call, batch_size=None)
        for row in made.sort("at").iter_rows():
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
