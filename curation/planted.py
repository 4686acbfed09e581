"""A chain beside its copy with one slip: pairs that differ in nothing but being right.

For preference training where a model's own mistakes are too few or too easily told apart, and for searches for losses,
which need pairs that are hard but cost nothing (`recipes/recipe/discover_demo.yaml`).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from limo.data import Dropped, Example, Row

RESULT = re.compile(r"=\s*(-?\d+)\b(?!\s*[-+*/^=.]|\.\d)")
SLIPS = (-10, -2, -1, 1, 2, 10)  # a carry forgotten, a digit off


def slipped(rows: Iterable[Example], /, *, seed: int) -> Iterator[Row]:
    """Each row with its chain as the better one of a pair, and as `rejected` the same with a wrong last result.

    The last whole number after an equals sign is off by 1, 2 or 10, there and wherever it is repeated after that; which
    it is depends on `seed` and the row's id alone. A row without such a number is set aside.
    """
    for row in rows:
        found = list(RESULT.finditer(row.completion))
        if not found:
            yield Dropped(row.id, "", "no result to change", row.completion[:200], data=row.to_json())
            continue
        begin, right = found[-1].start(1), found[-1][1]
        wrong = int(right) + Random(f"{seed}/{row.id}").choice(SLIPS)
        rest = re.sub(rf"(?<![\d-]){re.escape(right)}(?!\d)", str(wrong), row.completion[begin:])
        yield replace(row, rejected=row.completion[:begin] + rest)
