"""Which teacher suits this student: compares how some chains of each teacher fit the student.

    python -m curation.evidence.teachers recipe=limo

The verified chains of each teacher of the pool are scored under the student (`curation/stages/likelihood.py`). A low
rank-surprisal ratio goes with how much a student learns from a teacher's chains (arXiv 2601.14249); it says nothing
about their errors, so only chains with right answers count. The stages up to `fit.after` run as in `curation.run`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from curation.evidence.controls import random_set
from curation.evidence.probe import Fit, verified_chains
from curation.stages.likelihood import Score, add_fit
from limo.command import command
from limo.console import Table, print_table, terminal
from limo.data import Example
from limo.recipe import InputPath

SCORES: tuple[Score, ...] = ("rsr", "nll", "nll_inner", "nll_local")

Teachers = dict[str, list[Example]]  # by teacher, its scored chains


def compare_teachers(
    *, curate: dict[str, Any] | None, student: InputPath, after: str, chains: int, fit: Fit, seed: int
) -> Teachers:
    """Score up to `chains` verified chains of each teacher, one per problem; print the means with 95 % intervals."""
    by_teacher: defaultdict[str, list[Example]] = defaultdict(list)
    for row in verified_chains(curate, after, "fit")[-1]:
        by_teacher[str(row.notes.get("teacher", row.source))].append(row)
    found: Teachers = {}
    for teacher, rows in by_teacher.items():
        scored = add_fit(random_set(rows, chains, seed), model=student, scores=list(SCORES), **asdict(fit))
        found[teacher] = [row for row in scored if isinstance(row, Example)]
    print_table(tabulate_teachers(found), terminal(120))
    return found


def tabulate_teachers(found: Teachers) -> Table:
    """Print a line for each teacher, the lowest rank-surprisal ratio first."""
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
    command("fit", "curation.evidence.teachers")
