"""Exact early stopping: decides when the attempts at a problem can end.

A window such as "1 to 3 of 32 right" is decided long before the last attempt for most problems: the fourth right
attempt decides. Attempts end as soon as no further outcome could change the decision, so the same problems are kept as
with all attempts; nothing is estimated.

An attempt that was cut off, or that the grader could not decide, is unknown: it may have been right. If the unknown
attempts could put a problem outside the window, `unknown` decides: "drop", or "keep", which counts them as not right,
as the published rules do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from limo.errors import UserError


@dataclass(frozen=True, slots=True)
class Window:
    """The condition for keeping a problem: `at_least` to `at_most` of `n` attempts are right."""

    n: int
    at_least: int
    at_most: int
    unknown: Literal["keep", "drop"]

    def __post_init__(self) -> None:
        if not 0 <= self.at_least <= self.at_most <= self.n or self.unknown not in ("keep", "drop"):
            raise UserError(f"a window needs 0 <= at_least <= at_most <= n, and unknown: keep or drop; this is {self}")

    def keeps(self, right: int, unknown: int) -> bool:
        """Whether the problem is kept, after all `n` attempts."""
        most = right + unknown if self.unknown == "drop" else right
        return right >= self.at_least and most <= self.at_most

    def certain(self, right: int, unknown: int, attempts: int) -> bool | None:
        """Whether the problem is kept, if no further attempt can change that; otherwise None.

        >>> Window(32, 1, 3, "drop").certain(right=4, unknown=0, attempts=4)
        False
        """
        left = self.n - attempts
        most = right + unknown if self.unknown == "drop" else right
        needed = max(0, self.at_least - right)
        if needed > left or most + needed > self.at_most:  # even the best outcome does not keep it
            return False
        if right >= self.at_least and most + left <= self.at_most:
            return True
        return self.keeps(right, unknown) if not left else None

    def further(self, right: int, unknown: int, attempts: int) -> int:
        """The smallest number of further attempts after which the decision could be certain; 0 if it is certain.

        They are sampled together, since the decision needs all of them.
        """
        return _further(self, right, unknown, attempts)


@lru_cache(maxsize=2**16)
def _further(window: Window, right: int, unknown: int, attempts: int) -> int:
    for more in range(window.n - attempts + 1):
        if any(window.certain(r, u, attempts + more) is not None for r, u in _outcomes(right, unknown, more)):
            return more
    raise AssertionError("all attempts were made, and the decision is still open")


def _outcomes(right: int, unknown: int, more: int) -> Iterator[tuple[int, int]]:
    """All combinations of outcomes that `more` attempts can have."""
    return ((right + r, unknown + u) for r in range(more + 1) for u in range(more + 1 - r))
