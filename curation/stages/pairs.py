"""Makes pairs for preference training: a chain, and a worse chain of the same problem.

`curate.pairs` takes the worse chain from dropped rows; `plant_slips` makes it from the chain itself.
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
WRONG = "wrong answer"  # why a stage dropped the worse chain of a pair


def pair_with_dropped(chosen: Iterable[Example], left: Sequence[Path]) -> Iterator[Example]:
    """Yield each chosen row whose problem also has a chain with a wrong answer; that chain becomes `rejected`.

    `left` are the stages' files of dropped rows. The chain nearest in length is taken, so that length does not reveal
    the better chain.
    """
    rows = list(chosen)
    by_problem = {row.problem: row for row in rows}
    worse: dict[str, tuple[int, str]] = {}
    for rival in read_wrong(left):
        row = by_problem.get(rival.problem)
        if row is None or rival.completion == row.completion:
            continue
        distance = abs(len(rival.completion) - len(row.completion))
        known = worse.get(row.id)
        worse[row.id] = min(known, (distance, rival.completion)) if known else (distance, rival.completion)
    return (replace(row, rejected=worse[row.id][1]) for row in rows if row.id in worse)


def read_wrong(left: Sequence[Path]) -> Iterator[Example]:
    """Read the chains that stages have dropped for a wrong answer."""
    mark = WRONG.encode()
    for path in left:
        with path.open("rb") as lines:
            for line in lines:
                if mark in line and (row := parsed(line))["reason"] == WRONG:
                    yield Example.from_json(row["data"])


@stage("row")
def plant_slips(rows: Iterable[Example], /, *, seed: int) -> Iterator[Row]:
    """Make each chain the better one of a pair; `rejected` is the same chain with a wrong last result.

    The last whole number after an equals sign is off by 1, 2 or 10, there and wherever it is repeated after that; the
    error depends on `seed` and the row's id alone. A row without such a number is dropped.
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
