"""Metrics that a stage records: the funnel, the terminal and the report show them.

    record("held-out precision", 0.97)

They belong to this process. What runs a stage in another process takes them there and merges them here.
"""

from collections.abc import Mapping

Metric = int | float | str
_recorded: dict[str, Metric] = {}


def record(name: str, value: Metric) -> None:
    """Record a metric of the stage. In a stage of scope row it must be the same for all batches of rows."""
    _recorded[name] = value


def count(name: str, more: int = 1) -> None:
    """Add to a metric that counts."""
    before = _recorded.get(name, 0)
    assert not isinstance(before, str), f"'{name}' is no count but {before!r}"
    _recorded[name] = before + more


def take() -> dict[str, Metric]:
    """The metrics since the last call, in their order."""
    recorded = dict(_recorded)
    _recorded.clear()
    return recorded


def merge(metrics: Mapping[str, Metric]) -> None:
    """Add the metrics of a part of the rows: whole numbers are counts, all others stay as they are."""
    for name, value in metrics.items():
        if isinstance(value, int):
            count(name, value)
        else:
            record(name, value)
