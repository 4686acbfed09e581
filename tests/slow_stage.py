"""A stage for the test of a killed process: slow, and writing down which process does which row."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from limo.data import Example, Row


def slow(rows: Iterable[Example], /, *, seconds: float) -> Iterator[Row]:
    """Every row, after a while."""
    for row in rows:
        with Path(os.environ["SLOW_LOG"]).open("a") as file:
            file.write(f"{os.getpid()} {row.id}\n")
        time.sleep(seconds)
        yield row
