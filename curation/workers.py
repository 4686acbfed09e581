"""Sampling by any number of workers, on any number of machines that share the run's folder.

    python -m curation.attempt recipe=limo shard=any            # as often and wherever you like
    python -m curation.attempt recipe=limo shard=3/64           # the fourth of 64, from 0: a task of a Slurm array
    python -m curation.attempt recipe=limo stage=hard wait=false
    python -m curation.attempt recipe=limo ray=64 gpus=1        # 64 workers as tasks of a Ray cluster
    python -m curation.run recipe=limo                          # takes in what they drew, and pays for nothing more

A worker takes blocks of problems (`curation/worklist.py`) one after the other while its engine has room, runs the
recipe's stage on them as it is, and writes each sample to a shard in the shared folder before it counts. It keeps
nothing else: one that is killed is replaced by any other, which goes on from the samples that are there. So attempts at
a problem end exactly where those of a single process end. A worker that was only slow and has lost a block stops
asking for it; what it had in flight is all that is paid for twice.

Left out: a budget over workers that come and go. With `curate.budget`, give each worker its share: `shard=i/n`.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import orjson

import limo.ledger
from curation.run import check_early
from curation.worklist import Sampled, WorkList
from limo.command import command
from limo.data import Example
from limo.engine import Completion, Engine, Prompt, Request, Sampling, Take
from limo.errors import Interrupted, UserError
from limo.leases import BEATS, Leases
from limo.ledger import allow, sample_name, samples_folder, spent
from limo.progress import say
from limo.recipe import bind, own
from limo.shards import NAME, Shard, absorb, read

KEYS = {"shard": "any", "stage": "", "wait": "true", "expiry": "300", "block": "16", "ray": "0", "gpus": "1"}


class Desk:
    """The blocks that this worker holds: their rows, and where their samples go."""

    def __init__(self, work: WorkList, leases: Leases, mine: Sequence[str]) -> None:
        self.work, self.leases, self.mine = work, leases, mine
        self.rows: list[Example | None] = []  # of all blocks taken; None once their block is done
        self._ends: deque[tuple[int, str]] = deque()  # where each block ends in them
        self._shards: dict[str, Shard] = {}
        self.done = 0  # blocks

    def __iter__(self) -> Iterator[Example]:
        """The rows taken so far, and then, as they are asked for, those of further blocks."""
        at = 0
        while at < len(self.rows) or self._take():
            row = self.rows[at]
            assert row is not None, f"row {at} is asked for after its block was done"
            yield row
            at += 1

    def _take(self) -> bool:
        block, generation = self.leases.first_free(self.mine)
        if not block:
            return False
        absorb(samples_folder(), self.work.shards(block))
        self.rows.extend(self.work.rows(block))
        self._ends.append((len(self.rows), block))
        self._shards[block] = Shard(self.work.folder / "shards" / f"{block}.{generation}.shard")
        return True

    def holds(self, prompt: Prompt) -> bool:
        """Whether a prompt's block is still this worker's."""
        return self.leases.holds(self.work.block(prompt))

    def keep(self, fingerprint: str, request: Request, sampling: Sampling, completion: Completion) -> None:
        """Write a sample to the shard of its block."""
        text = completion.text.encode("utf-8", "replace").decode()
        name = sample_name(request, sampling)
        kept = (fingerprint, name, sampling.max_tokens, text, completion.tokens, completion.finish)
        self._shards[self.work.block(request.prompt)].append(kept)

    def finished(self, rows: int | None = None) -> None:
        """The first so many rows need no more samples, or none of those taken does; whole blocks of them are done."""
        while self._ends and (rows is None or self._ends[0][0] <= rows):
            end, block = self._ends.popleft()
            first = next((at for at in range(end - 1, -1, -1) if self.rows[at] is None), -1) + 1
            self.rows[first:end] = [None] * (end - first)
            self._shards.pop(block).close()
            self.done += self.leases.finish(block)


_desk: Desk | None = None  # of this process


class Recorded:
    """An engine whose samples go to the shards of the desk. What belongs to a lost block it does not draw."""

    def __init__(self, *, engine: dict[str, Any]) -> None:
        self.engine = _engine(orjson.dumps(engine))

    @property
    def fingerprint(self) -> str:
        """That of the engine inside."""
        return self.engine.fingerprint

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `limo.engine.Engine.complete`."""
        assert _desk is not None, "an engine is recorded only while there is a desk"
        desk, lost = _desk, deque[Request]()

        def ours(room: int) -> list[Request]:
            kept: list[Request] = []
            while len(kept) < room and (requests := take(room - len(kept))):
                for request in requests:
                    (kept if desk.holds(request.prompt) else lost).append(request)
            return kept

        for request, completion in self.engine.complete(ours, sampling):
            if completion.finish != "refused":
                desk.keep(self.fingerprint, request, sampling, completion)
            yield request, completion
        while lost:
            yield lost.popleft(), Completion("", 0, "refused", "another worker has it now")


@cache
def _engine(node: bytes) -> Engine:
    """The engine of a node, made once: a stage that takes over more blocks must not load its model again."""
    engine: Engine = bind(orjson.loads(node), "engine")()
    return engine


def recorded(value: Any) -> Any:
    """A stage's settings with every engine in them recorded."""
    if not isinstance(value, Mapping):
        return value
    wrapped = f"{Recorded.__module__}.{Recorded.__qualname__}"
    return {k: {"_target_": wrapped, "engine": v} if k == "engine" else recorded(v) for k, v in value.items()}


def work(section: Mapping[str, Any], settings: Mapping[str, str]) -> str:
    """Sample as one worker, until no block of its share is left. Returns the stage, or "" if none had to be sampled.

    Args: the recipe's section `curate`; `settings` as in KEYS. Raises UserError for wrong ones, Interrupted on SIGTERM.
    """
    part, of = shard_of(settings["shard"])
    wait, expiry, size = _flag("wait", settings), _number("expiry", settings), int(_number("block", settings))
    sampled = Sampled.of(section)
    stage = settings["stage"] or sampled.next()
    if not stage:
        return ""
    sampled.check(stage)
    check_early(stage, section["stages"][stage])
    if sampled.complete(stage):
        say(f"{stage}: sampled already")
        return stage
    with _private() as ledgers, Leases(sampled.folder / "work" / stage, expiry) as leases:
        _budget(section, part, of)
        listed = sampled.list(stage, leases, size, ledgers)
        blocks = listed.blocks()
        mine = [block for block in blocks if of is None or int(block) % of == part]
        if of is None:  # each begins elsewhere, so that they seldom reach for the same
            start = hash(leases.worker) % len(mine)
            mine = mine[start:] + mine[:start]
        desk = Desk(listed, leases, mine)
        _sample(section["stages"][stage], stage, desk, wait)
    say(f"{stage}: {desk.done:,} of {len(blocks):,} blocks done by this worker, {spent.sampled:,} samples drawn")
    return stage


def _sample(node: Mapping[str, Any], stage: str, desk: Desk, wait: bool) -> None:
    """Run the stage on block after block; with `wait`, until those of other workers are done or free as well."""
    global _desk
    _desk = desk
    each = node["_target_"] == "curation.attempt.difficulty"  # gives a row for each row, in order
    try:
        while left := set(desk.mine) & desk.work.left():
            if desk.leases.free(desk.mine):
                desk.rows.clear()
                for done, _ in enumerate(bind(recorded(node), f"curate.stages.{stage}")(desk), 1):
                    if each:
                        desk.finished(done)
                desk.finished()
            elif wait:
                time.sleep(desk.leases.expiry / BEATS)
            else:
                say(f"{stage}: {len(left):,} blocks are with other workers")
                break
    finally:
        _desk = None


def shard_of(text: str) -> tuple[int, int | None]:
    """Which part of how many: "3/64" is (3, 64), "any" (0, None). Raises UserError for what is neither."""
    part, _, of = text.partition("/")
    if text == "any":
        return 0, None
    if part.isdigit() and of.isdigit() and int(part) < int(of):
        return int(part), int(of)
    raise UserError(f"shard must be any, or a part from 0 and how many there are, such as 3/64, not '{text}'")


def _flag(key: str, settings: Mapping[str, str]) -> bool:
    if settings[key] not in ("true", "false"):
        raise UserError(f"{key} must be true or false, not '{settings[key]}'")
    return settings[key] == "true"


def _number(key: str, settings: Mapping[str, str]) -> float:
    try:
        number = float(settings[key])
    except ValueError:
        number = -1
    if number < (0 if key in ("ray", "gpus") else 0.01):
        raise UserError(f"{key} must be a positive number, not '{settings[key]}'")
    return number


@contextmanager
def _private() -> Iterator[Path]:
    """A ledger of this worker's own, gone afterwards: what it draws is in the shards. Yields the machine's folder."""
    machine, before = samples_folder(), os.environ.get("LIMO_SAMPLES")
    with tempfile.TemporaryDirectory(prefix="limo-worker-") as folder:
        os.environ["LIMO_SAMPLES"] = folder
        try:
            yield machine
        finally:
            del os.environ["LIMO_SAMPLES"]
            if before is not None:
                os.environ["LIMO_SAMPLES"] = before


def _budget(section: Mapping[str, Any], part: int, of: int | None) -> None:
    """Allow this worker its share of the run's budget, less what its share of the blocks has taken."""
    limits = [section["budget"]["samples"], section["budget"]["tokens"]]
    if limits == [None, None]:
        allow("", None, None)
        return
    if of is None:
        raise UserError("a budget is shared out by parts: give shard=i/n to each worker, or curate.budget.samples=null")
    allow("", *(limit if limit is None else limit // of for limit in limits))
    for path in (Path(section["out"]) / "work").glob("*/shards/*.shard"):
        found = NAME.fullmatch(path.name)
        if found and int(found[1]) % of == part:
            for kept in read(path):
                limo.ledger.budget.paid_samples += 1
                limo.ledger.budget.paid_tokens += kept[4]


def _stop(*_: object) -> None:
    raise Interrupted("told to stop. What was drawn is kept, and other workers take over")


def main() -> None:
    """The command `python -m curation.attempt`."""
    typed = sys.argv[1:]
    settings = own(KEYS)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)

    def several(section: Mapping[str, Any]) -> int:
        if count := int(_number("ray", settings)):
            from curation.distributed import sample_on_ray

            sample_on_ray(section, settings, count, _number("gpus", settings))
        elif not (stage := work(section, settings)):
            say("every stage is sampled: python -m curation.run makes the rest of the run")
        elif not settings["stage"] and Sampled.of(section).complete(stage):
            # The next stage has another model: a process of its own gives the memory back
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, "-m", "curation.attempt", *typed])
        return 0

    command("curate", "curation.attempt", f"{__doc__}\nKeys of its own: {', '.join(KEYS)}.", several)
