"""Stages and sampling on a Ray cluster. Ray starts the processes, replaces those that die, and knows the machines.

    python -m curation.run recipe=limo '+curate.on={_target_: curation.distributed.RayData, parts: 256, address: auto}'
    python -m curation.attempt recipe=limo ray=64 gpus=1

`pip install 'limo-toolkit[ray]'`. `address: auto` joins the cluster that `ray start` has made (on Slurm, `ray
symmetric-run`); null starts Ray on this machine alone. All machines must see the run's folder under one path.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from curation.parts import Task
from curation.worklist import Sampled
from limo.errors import UserError, explained


@dataclass(frozen=True)
class RayData:
    """Calls tasks by Ray Data's `map_batches`, a number to a batch; what a dead process held is called again."""

    parts: int  # a few for each core of the cluster
    address: str | None  # of the cluster; auto, or null for this machine alone
    per_row: tuple[str, ...] = ()  # stages of your own that look at one row at a time

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise UserError(f"on.parts must be at least 1, not {self.parts}")

    def run(self, task: Task, count: int) -> None:
        """See `curation.parts.Machines`. Raises UserError for what a person got wrong in the stage."""

        def called(batch: dict[str, Any]) -> dict[str, list[str]]:
            os.environ["LIMO_CORES"] = "1"  # each task is one process; Ray fills the cores
            try:
                for number in batch["id"].tolist():
                    task(number)
            except Exception as error:
                if not (told := explained(error)):
                    raise
                return {"wrong": [str(told)]}  # as a value: of an exception Ray Data keeps only the text
            return {"wrong": [""]}

        with _ray(self.address) as ray:
            numbers = ray.data.range(count, override_num_blocks=count)
            found = numbers.map_batches(called, batch_size=1).take_all()
        if wrong := sorted({row["wrong"] for row in found} - {""}):
            raise UserError(wrong[0])


def sample_on_ray(section: Mapping[str, Any], settings: Mapping[str, str], count: int, gpus: float) -> None:
    """Sample as `count` workers with `gpus` each, stage after stage or the one that `settings` names.

    Args: as of `curation.workers.work`. Raises UserError as that does.
    """
    with _ray(os.environ.get("RAY_ADDRESS")) as ray:
        worker = ray.remote(num_gpus=gpus, max_retries=-1, max_calls=1)(_work)  # one process each: its model goes too
        while stage := settings["stage"] or Sampled.of(section).next():
            ray.get([worker.remote(dict(section), {**settings, "stage": stage}) for _ in range(count)])
            if settings["stage"] or not Sampled.of(section).complete(stage):
                break


def _work(section: dict[str, Any], settings: dict[str, str]) -> str:
    from curation.workers import work

    return work(section, settings)


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected; a UserError of a task comes through as it is."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("Ray is not installed: pip install 'limo-toolkit[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"cannot reach a Ray cluster at '{address}': {error}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the funnel and the progress are ours to tell
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
