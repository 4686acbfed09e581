"""What models are evaluated on: named sets of problems with reference answers."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from limo.data import Dropped, Example
from limo.errors import UserError
from limo.recipe import bind

DRAWN_AGAIN = "same problem drawn again"  # a generator's repetition costs nothing; a row of a file that is lost does


def load(benchmarks: Mapping[str, Any], system: str) -> dict[str, list[Example]]:
    """The problems of each benchmark, by its name; each entry names a source as a pool's does.

    Raises UserError if a row cannot be used: a benchmark with rows missing gives numbers nobody can compare.
    """
    loaded = {}
    for name, node in benchmarks.items():
        rows = list(bind(node, f"benchmarks.{name}")(name, system))
        bad = [row for row in rows if isinstance(row, Dropped) and row.reason != DRAWN_AGAIN]
        if bad:
            raise UserError(
                f"benchmark '{name}': {len(bad)} of {len(rows)} rows cannot be used; the first is {bad[0].file}, row "
                f"{bad[0].row}: {bad[0].reason} ({bad[0].detail}). Map its columns with fields, or repair the file"
            )
        loaded[name] = [row for row in rows if isinstance(row, Example)]
        twice = next((key for key, count in Counter(row.id for row in loaded[name]).items() if count > 1), None)
        if twice:
            raise UserError(
                f"benchmark '{name}': two rows have the id '{twice}'. Results are kept by id: make them differ"
            )
    return loaded
