"""The sets that a study trains: which there are, drawn from the rows that a recipe chooses from, for how many steps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from curation.controls import Controls, write_controls
from curation.run import stage_file
from curation.runner import Rows
from curation.stage import in_order
from limo.data import Example, read_jsonl, write_jsonl
from limo.errors import UserError
from limo.recipe import bind


@dataclass(frozen=True)
class Arm:
    """One set, trained with one seed."""

    name: str  # curated, or one a rival
    equal: str  # rows or tokens: what it has as many of as the curated set
    size: int  # rows of the curated set
    seed: int

    @property
    def kind(self) -> str:
        """The set's name, with `_tokens` where tokens are equal."""
        return self.name if self.equal == "rows" else f"{self.name}_tokens"

    @property
    def label(self) -> str:
        """The name of its folder."""
        return f"{self.kind}-{self.size}-seed-{self.seed}"


def arms_of(rows: int, sizes: Sequence[int], rivals: Sequence[str], seeds: Sequence[int]) -> list[Arm]:
    """All trainings: those at `rows` first, then size by size, so that a study that is stopped has whole comparisons.

    >>> [arm.label for arm in arms_of(8, [4], ["random"], [0])][:3]
    ['curated-8-seed-0', 'random-8-seed-0', 'random_tokens-8-seed-0']
    """
    met = [("curated", "rows"), *((name, "rows") for name in rivals), *((name, "tokens") for name in rivals)]
    first = [Arm(name, equal, rows, seed) for seed in seeds for name, equal in met]
    others = sorted({*sizes} - {rows})
    return first + [Arm(n, "rows", size, seed) for size in others for seed in seeds for n in ("curated", "random")]


def sets(folder: Path, settings: Mapping[str, Any]) -> dict[tuple[str, int, int], Path]:
    """The files of all sets, by kind, size and seed. Raises UserError if fewer rows are left than a size asks for."""
    curate, rivals = settings["curate"], settings["rivals"]
    stages = in_order(curate["stages"], curate.get("order"))
    names = ["pool", *stages]
    at = names.index(curate["controls"]["source"])
    candidates = Rows(stage_file(folder, at - 1, names[at - 1]))
    files = {}
    for size in sorted({settings["rows"], *settings["sizes"]}):
        chosen = _chosen(candidates, dict(list(stages.items())[at - 1 :]), size)
        if len(chosen) < size:
            raise UserError(f"the stage '{names[-1]}' leaves {len(chosen)} rows, too few for the study's {size}")
        curated = folder / "sets" / f"curated-{size}.jsonl"
        write_jsonl(curated, chosen)
        kinds = [*rivals, *(f"{name}_tokens" for name in rivals if name != "everything")]
        for seed in settings["seeds"]:
            files["curated", size, seed] = curated
            drawn = folder / "sets" / f"{size}-seed-{seed}"
            made = write_controls(drawn, candidates, chosen, Controls(names[at], kinds, seed))
            files |= {(kind, size, seed): drawn / f"{kind}.jsonl" for kind in kinds if kind in made}
            if "everything" in made:
                files["everything_tokens", size, seed] = drawn / "everything.jsonl"
    return files


def _chosen(rows: Iterable[Example], stages: Mapping[str, Any], size: int) -> list[Example]:
    """What the stages that choose make of the candidates, `size` of them."""
    last = list(stages)[-1]
    for name, node in stages.items():
        given = {**node, "k": size} if name == last else node
        rows = [row for row in bind(given, f"curate.stages.{name}")(rows) if isinstance(row, Example)]
    return list(rows)


def steps_for(arm: Arm, file: Path, curated: Path, train: Mapping[str, Any]) -> int | None:
    """Optimizer steps of a set that is not simply trained for its epochs: everything, seen as often as the curated set.

    With equal tokens as many steps as show so many tokens, by the mean length of its chains.
    """
    if arm.name != "everything":
        return None
    epochs = float(train["args"].get("num_train_epochs", 3))
    chosen = _lengths(curated)
    seen = len(chosen) if arm.equal == "rows" else round(sum(chosen) / fmean(_lengths(file)))
    return max(1, round(math.ceil(seen / int(train["global_batch"])) * epochs))


def _lengths(file: Path) -> list[float]:
    return [row.scores.get("tokens", float(len(row.completion))) for row in read_jsonl(file)]
