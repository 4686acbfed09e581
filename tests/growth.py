"""Whether work grows in proportion to its input, on a machine that does other things as well."""

import time
from collections.abc import Callable
from typing import Any


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def in_proportion(work: Callable[[int], Any], size: int) -> bool:
    """Whether four times the size takes less than eight times the time (or a second) in one of three tries.

    Quadratic work takes sixteen times as long in each of them.
    """
    for _ in range(3):
        one, four = seconds(lambda: work(size)), seconds(lambda: work(4 * size))
        if four < max(1.0, 8 * one):
            return True
    return False
