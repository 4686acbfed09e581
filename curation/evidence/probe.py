"""Which scores can tell a good chain from a spoiled one, on your pool and under your student, without any training.

    python -m curation.evidence.probe recipe=demo

Verified chains of the recipe's pool get flaws that leave their answer right (`curation/evidence/flaws.py`). For each
pair, every score that the recipe computes or could compute decides which chain is better: the untouched or the spoiled
one. At 50 % a score is blind; below, it is reversed: a choice by such a score prefers the flaw. Wrong answers that
models gave to the same problems are compared too; no score replaces the grader there.

The stages up to `probe.after` run as in `curation.run`, which reuses them. Stages that ask a model for text, such as a
judge, are not probed, since every pair would be paid for. Scores computed from the scores of such stages are not probed
either.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from curation.evidence.controls import random_set
from curation.evidence.flaws import FLAWS, spoil
from curation.evidence.probe_result import Found, chosen_by, decided, keep_probe, print_probe
from curation.folder import stage_file
from curation.run import run_first
from curation.stage import about, collecting, direction, in_order
from curation.stages.chains import check_steps
from curation.stages.likelihood import SCORES, add_fit
from curation.stages.pairs import WRONG, read_wrong
from curation.stages.score import score
from limo.command import command
from limo.console import say
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.recipe import InputPath, bind, suggest

LIMO = {"length": 0.30, "verification": 0.20, "exploration": 0.25, "connectives": 0.25}  # LIMO v2, section 3


@dataclass(frozen=True, slots=True)
class Fit:
    """How the student's own scores are computed, see `curation.stages.likelihood.add_fit`."""

    dtype: str
    batch_size: int
    max_length: int


def probe(
    *, out: str, curate: dict[str, Any] | None, student: InputPath, after: str, chains: int, fit: Fit, seed: int
) -> Found:
    """Print, return and write to `runs/<name>/probe.json` the share of pairs that each score decides correctly.

    Args: `chains` verified chains of as many problems, taken at random after the stage named `after`; `student` scores
    them as `fit` says. Raises UserError if there is no such stage, or no verified chain.
    """
    folder = Path(out)
    stages, number, verified = verified_chains(curate, after, "probe")
    untouched = random_set(verified, chains, seed)
    wrong = stage_file(folder, number, after, ".dropped")
    rivals = {**plant(untouched, verified, seed), WRONG: list(wrong_answers(wrong, untouched))}
    everything = [*untouched, *(row for rows in rivals.values() for _, row in rows)]
    kinds = {row.id: flaw for flaw, rows in rivals.items() for _, row in rows} | {
        row.id: "untouched" for row in untouched
    }
    rest = dict(list(stages.items())[number:])
    values, caught = score_rows(everything, kinds, rest, student, fit)
    found = tell_apart(values, {flaw: [(a.id, b.id) for a, b in rows] for flaw, rows in rivals.items()})
    keep_probe(folder, found, caught, len(untouched), stages)
    print_probe(found, caught, len(untouched), chosen_by(rest))
    return found


def verified_chains(
    curate: dict[str, Any] | None, after: str, section: str
) -> tuple[dict[str, Any], int, list[Example]]:
    """Run the stages up to `after`. Returns all stages, how many have run, and the chains with right answers."""
    if not curate:
        raise UserError(f"{section}: the recipe has no curate section: there is no pool to take chains from")
    stages = in_order(curate["stages"], curate.get("order"))
    if after not in stages:
        raise UserError(f"{section}.after: there is no stage '{after}'{suggest(after, stages)}")
    number = list(stages).index(after) + 1
    left = run_first(curate, dict(list(stages.items())[:number]))
    rows = [row for row in left if row.notes.get("verdict") == "correct"]
    if not rows:
        raise UserError(f"no verified chain comes out of the stage '{after}': chains with right answers are needed")
    return stages, number, rows


def plant(
    untouched: Sequence[Example], rivals: Sequence[Example], seed: int
) -> dict[str, list[tuple[Example, Example]]]:
    """By flaw, pairs of a chain and its spoiled copy, without chains that have no place for the flaw."""
    pairs: dict[str, list[tuple[Example, Example]]] = {}
    for flaw in FLAWS:
        made = ((row, spoil(row, flaw, rivals, Random(f"{seed}/{flaw}/{row.id}"))) for row in untouched)
        pairs[flaw] = [(row, copy) for row, copy in made if copy]
    return pairs


def wrong_answers(path: Path, untouched: Sequence[Example]) -> Iterator[tuple[Example, Example]]:
    """Pairs of the untouched chain of a problem and a chain that was dropped for a wrong answer."""
    known = {row.problem: row for row in untouched}
    for rival in read_wrong([path]):
        if rival.problem in known:
            yield known.pop(rival.problem), rival


def score_rows(
    rows: list[Example], kinds: Mapping[str, str], stages: Mapping[str, Any], student: str, fit: Fit
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """All scores by row id, and by stage how many rows of each kind it drops.

    The recipe's stages come last, so that a score has its value in the recipe.
    """
    ours: dict[str, Callable[..., Any]] = {
        "probe: steps": partial(check_steps, arithmetic=False),
        "probe: features": partial(score, weights=LIMO, words=["en"], scaling="rank"),
        "probe: fit": partial(add_fit, model=student, scores=list(SCORES), **asdict(fit)),
    }
    calls = {**ours, **scoring_calls(stages)}
    scored, dropped = apply_calls(rows, calls)
    caught = {
        name: dict(Counter(kinds[key] for key in gone)) for name, gone in dropped.items() if gone and name in stages
    }
    return {row.id: dict(row.scores) for row in scored}, caught


def scoring_calls(stages: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The stages that filter single rows or add scores, except stages that ask a model for text."""
    calls = {name: bind(node, f"curate.stages.{name}") for name, node in stages.items()}
    return {name: call for name, call in calls.items() if _is_scoring(_function(call))}


def _function(call: Callable[..., Any]) -> Callable[..., Any]:
    return call.func if isinstance(call, partial) else call


def _is_scoring(function: Callable[..., Any]) -> bool:
    facts = about(function)
    return function is add_fit or (not facts.samples and (facts.scope == "row" or bool(facts.writes)))


def apply_calls(
    rows: list[Example], calls: Mapping[str, Callable[..., Any]]
) -> tuple[list[Example], dict[str, list[str]]]:
    """Apply all stages to the rows. Returns the rows with their scores, and the ids that each stage drops; a dropped
    row goes unchanged to the next stage.

    A stage is skipped if it needs a score of a skipped stage.
    """
    dropped: dict[str, list[str]] = {}
    for name, call in calls.items():
        before = {row.id: row for row in rows}
        try:
            with collecting():  # the metrics are discarded, since the stage is only tried
                yielded: list[Row] = list(call(rows))
        except UserError as error:
            if name.startswith("probe: "):
                raise
            say(f"not probed: {name}, since {error}")
            continue
        dropped[name] = [row.id for row in yielded if isinstance(row, Dropped)]
        rows = [row for row in yielded if isinstance(row, Example)] + [before[key] for key in dropped[name]]
    return rows, dropped


def tell_apart(values: Mapping[str, Mapping[str, float]], pairs: Mapping[str, Sequence[tuple[str, str]]]) -> Found:
    """For each score and flaw: the share of (better, worse) pairs of ids in which the score prefers the better
    chain.
    """
    names = list(dict.fromkeys(name for scores in values.values() for name in scores))
    found: Found = {}
    for name in names:
        if not (better := direction(name)):
            continue
        sign = -1 if better == "lower" else 1
        for flaw, listed in pairs.items():
            both = [(values[a].get(name), values[b].get(name)) for a, b in listed]
            scored = [(sign * a, sign * b) for a, b in both if a is not None and b is not None]
            if found_ := decided([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in scored]):
                found.setdefault(name, {})[flaw] = found_
    return found


if __name__ == "__main__":
    command("probe", "curation.evidence.probe")
