"""Which teacher suits this student: how its chains fit, from some chains of each.

    python -m curation.fit recipe=limo

The verified chains of each teacher of the pool are scored under the student (`curation/stages/fit.py`). A low
rank-surprisal ratio goes with what a student learns from a teacher's chains (arXiv 2601.14249); it says nothing about
their errors, so only chains with right answers count. The stages up to `fit.after` run as `curation.run` will run them.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from curation.folder import Rows, stage_file
from curation.probe import Fit, sample_chains
from curation.run import run_first
from curation.stage import in_order
from curation.stages.fit import add_fit
from limo.command import command
from limo.data import Example
from limo.errors import UserError
from limo.recipe import InputPath, suggest
from limo.tables import Table, print_table, terminal

SCORES = ("rsr", "nll", "nll_inner", "nll_local")

Teachers = dict[str, list[Example]]  # by teacher, its scored chains


def compare_teachers(
    *, out: str, curate: dict[str, Any] | None, student: InputPath, after: str, chains: int, fit: Fit, seed: int
) -> Teachers:
    """Score up to `chains` verified chains of each teacher, one a problem, and print their means with 95 % intervals.

    Raises UserError if the recipe has no stage `after`, or no verified chain comes out of it.
    """
    if not curate:
        raise UserError("fit: the recipe has no curate section: there is no pool to take chains from")
    stages = in_order(curate["stages"], curate.get("order"))
    if after not in stages:
        raise UserError(f"fit.after: there is no stage '{after}'{suggest(after, stages)}")
    number = list(stages).index(after) + 1
    run_first(curate, dict(list(stages.items())[:number]))
    by_teacher: defaultdict[str, list[Example]] = defaultdict(list)
    for row in Rows(stage_file(Path(out), number, after)):
        if row.notes.get("verdict") == "correct":
            by_teacher[str(row.notes.get("teacher", row.source))].append(row)
    if not by_teacher:
        raise UserError(f"no verified chain comes out of the stage '{after}'")
    settings: dict[str, Any] = {"dtype": fit.dtype, "batch_size": fit.batch_size, "max_length": fit.max_length}
    found: Teachers = {}
    for teacher, rows in by_teacher.items():
        scored = add_fit(sample_chains(rows, chains, seed), model=student, scores=list(SCORES), **settings)
        found[teacher] = [row for row in scored if isinstance(row, Example)]
    print_table(tabulate_teachers(found), terminal(120))
    return found


def tabulate_teachers(found: Teachers) -> Table:
    """A line for each teacher, the one with the lowest rank-surprisal ratio first."""
    usable = {teacher: rows for teacher, rows in found.items() if rows}
    ranked = sorted(usable, key=lambda teacher: fmean(row.scores["rsr"] for row in usable[teacher]))
    lines = [
        (teacher, len(usable[teacher]), *(_mean([r.scores[name] for r in usable[teacher]]) for name in SCORES))
        for teacher in ranked
    ]
    return Table(("teacher", "chains", *SCORES), lines, range(1, 6), "Mean under the student (95 %); lower fits better")


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{fmean(values):.3f}"
    half = 1.96 * stdev(values) / math.sqrt(len(values))
    return f"{fmean(values):.3f} ± {half:.3f}"


if __name__ == "__main__":
    command("fit", "curation.fit")
