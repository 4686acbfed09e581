"""When the attempts at a problem may end: exact early stopping.

A window such as "1 to 3 of 32 right" is decided long before the last attempt for most problems: the fourth right one
settles it. Attempts end as soon as no outcome of those to come could change the decision, so what is kept is what all
of them would have kept; nothing is estimated.

An attempt that was cut off, or that the grader could not tell, is unknown: it may have been right. A problem whose
unknown attempts could carry it out of the window is not certain to lie in it, and `unknown` says what becomes of it:
"drop", or "keep", which counts them as not right, as the published rules do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from limo.errors import UserError


@dataclass(frozen=True, slots=True)
class Window:
    """How many of `n` attempts must be right: `at_least` to `at_most`."""

    n: int
    at_least: int
    at_most: int
    unknown: Literal["keep", "drop"]

    def __post_init__(self) -> None:
        if not 0 <= self.at_least <= self.at_most <= self.n or self.unknown not in ("keep", "drop"):
            raise UserError(f"a window needs 0 <= at_least <= at_most <= n, and unknown: keep or drop; this is {self}")

    def keeps(self, right: int, unknown: int) -> bool:
        """The decision once all `n` attempts are made."""
        most = right + unknown if self.unknown == "drop" else right
        return right >= self.at_least and most <= self.at_most

    def certain(self, right: int, unknown: int, attempts: int) -> bool | None:
        """The decision if no outcome of the attempts to come can change it, else None.

        >>> Window(32, 1, 3, "drop").certain(right=4, unknown=0, attempts=4)
        False
        """
        left = self.n - attempts
        most = right + unknown if self.unknown == "drop" else right
        needed = max(0, self.at_least - right)
        if needed > left or most + needed > self.at_most:  # even the best that can come does not keep it
            return False
        if right >= self.at_least and most + left <= self.at_most:
            return True
        return self.keeps(right, unknown) if not left else None

    def further(self, right: int, unknown: int, attempts: int) -> int:
        """The least number of further attempts after which the decision could be certain; 0 if it is.

        So many are sampled at once, and none of them is one too many.
        """
        return _further(self, right, unknown, attempts)


@lru_cache(maxsize=2**16)
def _further(window: Window, right: int, unknown: int, attempts: int) -> int:
    for more in range(window.n - attempts + 1):
        if any(window.certain(r, u, attempts + more) is not None for r, u in _outcomes(right, unknown, more)):
            return more
    raise AssertionError("all attempts leave the decision open")


def _outcomes(right: int, unknown: int, more: int) -> Iterator[tuple[int, int]]:
    """What `more` attempts can come to."""
    return ((right + r, unknown + u) for r in range(more + 1) for u in range(more + 1 - r))
