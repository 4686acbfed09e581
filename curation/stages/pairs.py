"""Pairs for preference training: a chain, and a worse one of the same problem.

`curate.pairs` takes the worse one from what was dropped on the way. The stages here make rows that are pairs
themselves, so that `curated.jsonl` is what is trained on: from rows with a score, such as the turns of RISE, from the
errors of LEMMA, or from one planted slip.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

from curation.stage import drop, stage
from limo.data import Example, Row, parsed

NUMBER = re.compile(r"(?<![\d-])-?\d+(?!\d)")
RESULT = re.compile(r"=\s*(-?\d{1,18})\b(?!\s*[-+*/^=.]|\.\d)")
SLIPS = (-10, -2, -1, 1, 2, 10)  # a carry forgotten, a digit off
REASONS = {"wrong": "wrong answer", "worst": "better chain of the same problem"}


def pair_with_dropped(chosen: Iterable[Example], left: Sequence[Path], which: str) -> Iterator[Example]:
    """Each chosen row for which there is one, with a `rejected` chain.

    Args: `left` are the stages' files of dropped rows. `which` is "wrong", a chain that ends in a wrong answer, or
    "worst", the right one with the lowest score. Among wrong ones the nearest in length is taken, so that preferring
    the better chain is not preferring the longer one.
    """
    rows = list(chosen)
    by_problem = {row.problem: row for row in rows}
    worse: dict[str, tuple[float, str]] = {}
    for rival in _dropped(left, REASONS[which]):
        row = by_problem.get(rival.problem)
        if row is None or rival.completion == row.completion:
            continue
        distance = (
            abs(len(rival.completion) - len(row.completion)) if which == "wrong" else rival.scores.get("score", 0)
        )
        known = worse.get(row.id)
        worse[row.id] = min(known, (distance, rival.completion)) if known else (distance, rival.completion)
    return (replace(row, rejected=worse[row.id][1]) for row in rows if row.id in worse)


def _dropped(left: Sequence[Path], reason: str) -> Iterator[Example]:
    mark = reason.encode()
    for path in left:
        with path.open("rb") as lines:
            for line in lines:
                if mark in line and (row := parsed(line))["reason"] == reason:
                    yield Example.from_json(row["data"])


@stage("row")
def plant_slips(rows: Iterable[Example], /, *, seed: int) -> Iterator[Row]:
    """Each row with its chain as the better one of a pair, and as `rejected` the same with a wrong last result.

    The last whole number after an equals sign is off by 1, 2 or 10, there and wherever it is repeated after that; which
    it is depends on `seed` and the row's id alone. A row without such a number is dropped.
    """
    for row in rows:
        found = list(RESULT.finditer(row.completion))
        if not found:
            yield drop(row, "no result to change", row.completion[:200])
            continue
        begin, right = found[-1].start(1), found[-1][1]
        wrong = int(right) + Random(f"{seed}/{row.id}").choice(SLIPS)
        rest = NUMBER.sub(partial(_replace_number, right, str(wrong)), row.completion[begin:])
        yield replace(row, rejected=row.completion[:begin] + rest)


def _replace_number(right: str, wrong: str, found: re.Match[str]) -> str:
    return wrong if found[0] == right else found[0]


@stage("pool", reads=("{by}",))
def pair_by_score(rows: Iterable[Example], /, *, by: str) -> Iterator[Row]:
    """One pair of each problem: the chain with the highest `scores[by]`, and as `rejected` that with the lowest.

    The pair has the shortest of their prompts: of the turns of a dialogue, the first. Of equals the first is
    taken. Rows without the score, problems whose chains all
    have the same one, and chains between best and worst are dropped. Goes through `rows` once, and holds them.
    """
    problems: dict[str, list[Example]] = {}
    for row in rows:
        if by in row.scores and row.completion.strip():
            problems.setdefault(row.problem, []).append(row)
        else:
            yield drop(row, "no score to pair by", by)
    for group in problems.values():
        best, worst = (extreme(group, key=lambda row: row.scores[by]) for extreme in (max, min))
        paired_ = best.scores[by] > worst.scores[by] and best.completion.strip() != worst.completion.strip()
        if paired_:
            yield replace(best, prompt=min((row.prompt for row in group), key=len), rejected=worst.completion)
        for row in group:
            if not paired_ or row not in (best, worst):
                reason = "neither best nor worst" if paired_ else "no better and no worse chain"
                yield drop(row, reason)


@stage("row")
def pair_errors(rows: Iterable[Example], /) -> Iterator[Row]:
    """A pair of each row with an error as LEMMA's stages `find` and `inject` note it; rows without one are dropped.

    The better one is the right chain in `notes.chain`, the worse one all steps of the wrong solution in
    `notes.error.steps`, which the completion is the beginning of.
    """
    for row in rows:
        right, error = row.notes.get("chain"), row.notes.get("error")
        if not right or not error:
            yield drop(row, "no error")
            continue
        notes = {key: value for key, value in row.notes.items() if key != "chain"}
        yield replace(row, completion=right, rejected="".join(error["steps"]), notes=notes)
