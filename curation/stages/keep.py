"""A stage that keeps rows by bounds on any of their scores.

keep: {_target_: curation.stages.keep.keep_between, by: tokens, at_most: 4096}
"""

from collections.abc import Iterable, Iterator

from curation.stage import drop, stage
from curation.stages.score import read_score
from limo.data import Example, Row
from limo.errors import UserError


def _check(*, at_least: float | None = None, at_most: float | None = None, **_: object) -> None:
    if at_least is None and at_most is None:
        raise UserError("keep_between needs at_least, at_most, or both")
    if at_least is not None and at_most is not None and at_least > at_most:
        raise UserError(f"keep_between: at_least={at_least:g} is above at_most={at_most:g}, so no row can be kept")


@stage("row", reads=("{by}",), check=_check)
def keep_between(
    rows: Iterable[Example], /, *, by: str, at_least: float | None = None, at_most: float | None = None
) -> Iterator[Row]:
    """Keep the rows whose score `by` is between `at_least` and `at_most`, both included; each may be left out.

    Raises UserError without a bound, for bounds that exclude each other, and for rows without that score.
    """
    _check(at_least=at_least, at_most=at_most)
    for row in rows:
        value = read_score(row, by, "keep_between.by")
        if at_least is not None and value < at_least:
            yield drop(row, f"{by} below {at_least:g}", f"{value:g}")
        elif at_most is not None and value > at_most:
            yield drop(row, f"{by} above {at_most:g}", f"{value:g}")
        else:
            yield row
