"""Metrics that a stage measures on its way: the funnel, the terminal and the report show them.

    tell("held-out precision", 0.97)

They are of this process. What runs a stage elsewhere takes them there and merges them here.
"""

from collections.abc import Mapping

Figure = int | float | str
_told: dict[str, Figure] = {}


def tell(name: str, value: Figure) -> None:
    """Record a metric of the stage. In a stage of scope row it must be the same for all batches of rows."""
    _told[name] = value


def count(name: str, more: int = 1) -> None:
    """Add to a metric that counts."""
    before = _told.get(name, 0)
    assert not isinstance(before, str), f"'{name}' is no count but {before!r}"
    _told[name] = before + more


def taken() -> dict[str, Figure]:
    """The metrics since the last call, in their order."""
    told = dict(_told)
    _told.clear()
    return told


def merge(metrics: Mapping[str, Figure]) -> None:
    """Add the metrics of a part of the rows: whole numbers are counts, all others stay as they are."""
    for name, value in metrics.items():
        if isinstance(value, int):
            count(name, value)
        else:
            tell(name, value)


def shown(value: Figure) -> str:
    """A metric as a person reads it.

    >>> shown(12345), shown(0.98765), shown("0.98 of 3")
    ('12,345', '0.988', '0.98 of 3')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value
