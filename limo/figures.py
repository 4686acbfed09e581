"""Figures that a stage finds out on its way: they stand in its line of the funnel, on the screen and in the report.

tell("held-out precision", 0.97)
"""

Figure = int | float | str
_told: dict[str, Figure] = {}


def tell(name: str, value: Figure) -> None:
    """Keep a figure for whoever runs the stage."""
    _told[name] = value


def count(name: str, more: int = 1) -> None:
    """Add to a figure that counts."""
    before = _told.get(name, 0)
    assert not isinstance(before, str), f"'{name}' is no count but {before!r}"
    _told[name] = before + more


def taken() -> dict[str, Figure]:
    """The figures told since the last call, in their order."""
    told = dict(_told)
    _told.clear()
    return told


def shown(value: Figure) -> str:
    """A figure as a person reads it.

    >>> shown(12345), shown(0.98765), shown("0.98 of 3")
    ('12,345', '0.988', '0.98 of 3')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value
