"""The problems that a stage samples, in blocks that workers take, and what is known of each block.

`runs/<name>/work/<stage>/` is all that workers share: `list/` has the rows of each block and the samples of them that
were known before, `shards/` what workers have drawn, `leases/`, `workers/` and `done/` who has what (`limo/leases.py`).
A row's block follows from its prompt, so that all chains and attempts of one problem are in one worker's hands.
"""

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curation.plan import refuse_if_other
from curation.run import is_done, made_from, run_stages, stage_file
from limo.data import Example, content_id, dump, read_jsonl
from limo.engine import Prompt, Request, Sampling
from limo.errors import UserError
from limo.leases import BEATS, Leases
from limo.ledger import sample_name, samples_folder
from limo.ledgers import merge
from limo.manifest import content_hash
from limo.recipe import files_in, near
from limo.shards import Shard, absorb, known, shards_in

SAMPLED = ("curation.attempt.difficulty", "curation.solve.solve")
MOST = 4096  # blocks: their files are listed often
HELD = 20_000  # rows in memory while blocks are written


@dataclass(frozen=True, slots=True)
class WorkList:
    """The blocks of one stage."""

    folder: Path  # runs/<name>/work/<stage>
    count: int  # of blocks, those without rows included

    def block(self, prompt: Prompt) -> str:
        """The block that a prompt belongs to."""
        return f"{int(content_id(prompt), 16) % self.count:05d}"

    def blocks(self) -> list[str]:
        """Those that have rows."""
        return sorted(path.stem for path in (self.folder / "list").glob("*.jsonl"))

    def rows(self, block: str) -> Iterator[Example]:
        """The rows of a block, in the order of the stage's."""
        return read_jsonl(self.folder / "list" / f"{block}.jsonl")

    def shards(self, block: str) -> list[Path]:
        """What has been drawn for a block so far, by whomever."""
        return [*shards_in(self.folder / "shards", block), *shards_in(self.folder / "list", block)]

    def left(self) -> set[str]:
        """The blocks that are not done."""
        done = self.folder / "done"
        return set(self.blocks()) - ({path.name for path in done.iterdir()} if done.is_dir() else set())


@dataclass(frozen=True, slots=True)
class Sampled:
    """The stages of a `curate` section that sample, and what they are made from."""

    section: Mapping[str, Any]
    made: Mapping[str, str]  # by stage, as `curation.run.made_from` has it
    inputs: Mapping[str, str]

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Sampled":
        """Reads the files that the section names, for their content. Raises UserError if none of its stages samples."""
        whole = {key: section[key] for key in ("system", "pool", "stages", "controls", "pairs")}
        inputs = {path: content_hash(Path(path).expanduser()) for path in files_in(whole)}
        refuse_if_other(Path(section["out"]), whole)
        made = dict(zip(["pool", *section["stages"]], made_from(whole, inputs), strict=True))
        found = cls(section, made, inputs)
        if not found.names():
            raise UserError(f"no stage of this recipe is one that workers share: {', '.join(SAMPLED)}")
        return found

    @property
    def folder(self) -> Path:
        """The run's."""
        return Path(self.section["out"])

    def names(self) -> list[str]:
        """The stages that workers share, in order."""
        return [name for name, node in self.section["stages"].items() if node.get("_target_") in SAMPLED]

    def check(self, stage: str) -> None:
        """Raise UserError if there is no such stage, or one before it is not sampled yet."""
        names = self.names()
        if stage not in names:
            raise UserError(f"stage: '{stage}' is none that workers share{near(stage, names)}")
        for earlier in names[: names.index(stage)]:
            if not self.complete(earlier):
                raise UserError(f"the stage '{earlier}' comes before '{stage}' and is not sampled yet")

    def next(self) -> str:
        """The first stage that is not sampled yet; empty if all are."""
        return next((name for name in self.names() if not self.complete(name)), "")

    def complete(self, stage: str) -> bool:
        """Whether a stage's samples are all there: the run has done it, or the workers all of its blocks."""
        number = ["pool", *self.section["stages"]].index(stage)
        if is_done(self.folder, number, stage, self.made[stage]):
            return True
        found = self.listed(stage)
        return found is not None and not found.left()

    def listed(self, stage: str) -> WorkList | None:
        """The stage's list, if there is one. Raises UserError if it is of other settings."""
        folder = self.folder / "work" / stage
        try:
            told = json.loads((folder / "list" / "list.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if told["made_from"] != self.made[stage]:
            raise UserError(
                f"{folder} was made with other settings, or from other files. Give this run a name of its own with "
                "name=<name>, or remove that folder"
            )
        return WorkList(folder, told["blocks"])

    def list(self, stage: str, leases: Leases, size: int, ledgers: Path) -> WorkList:
        """The stage's list; the first worker makes it, by running what comes before, and the others wait.

        Args: `size` problems to a block, about; `ledgers` is the folder of this machine's own, whose samples of these
        problems are put beside them.
        """
        while (found := self.listed(stage)) is None:
            if leases.claim("list"):
                self._make(stage, leases, size, ledgers)
            else:
                time.sleep(leases.expiry / BEATS)
        return found

    def _make(self, stage: str, leases: Leases, size: int, ledgers: Path) -> None:
        private = samples_folder()
        if any(ledgers.glob("*.sqlite")):
            merge(private, [ledgers])
        absorb(private, shards_in(self.folder / "work"))
        stages = self.section["stages"]
        before = dict(list(stages.items())[: list(stages).index(stage)])
        settings = {"system": self.section["system"], "pool": self.section["pool"], "stages": before}
        funnel = run_stages(self.folder, settings, self.inputs)
        source = stage_file(self.folder, len(before), ["pool", *before][-1])
        new = self.folder / "work" / stage / f"new-{leases.worker}"
        work = WorkList(new, max(1, min(MOST, math.ceil(funnel[-1]["out"] / size))))
        _write_blocks(work, source)
        for block in work.blocks() if any(private.glob("*.sqlite")) else ():
            _write_known(work, block, _samplings(stages[stage]), private)
        told = {"made_from": self.made[stage], "blocks": work.count, "rows": funnel[-1]["out"]}
        (new / "list" / "list.json").write_text(json.dumps(told), encoding="utf-8")
        try:
            (new / "list").rename(new.parent / "list")  # whole at once
        except OSError:
            if not (new.parent / "list").is_dir():
                raise
        shutil.rmtree(new)


def _write_blocks(work: WorkList, source: Path) -> None:
    (work.folder / "list").mkdir(parents=True)
    held: dict[str, list[str]] = defaultdict(list)

    def write() -> None:
        for block, texts in held.items():
            with (work.folder / "list" / f"{block}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(texts)
        held.clear()

    for at, row in enumerate(read_jsonl(source), 1):
        held[work.block(row.prompt)].append(dump(row.to_json()))
        if at % HELD == 0:
            write()
    write()


def _samplings(node: Mapping[str, Any]) -> list[Sampling]:
    """Every way in which a stage draws."""
    each = [node] if "sampling" in node else node.get("teachers", {}).values()
    return [Sampling(**dict(inner["sampling"])) for inner in each]


def _write_known(work: WorkList, block: str, samplings: list[Sampling], ledgers: Path) -> None:
    """Put what the ledgers hold of a block's problems beside them, as its shard before all others."""
    names = dict.fromkeys(
        sample_name(Request(row.prompt, index), sampling)
        for row in work.rows(block)
        for sampling in samplings
        for index in range(sampling.n)
    )
    start = partial(Shard, work.folder / "list" / f"{block}.0.shard")
    shard: Shard | None = None
    for kept in known(ledgers, names):
        shard = shard or start()
        shard.append(kept)
    if shard:
        shard.close()
