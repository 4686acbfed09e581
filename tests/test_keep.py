"""Bounds on any number of a row."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.stages.keep import keep_between
from limo.errors import UserError
from tests.conftest import example, split

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(NUMBERS, max_size=20), st.none() | NUMBERS, st.none() | NUMBERS)
def test_what_is_kept_lies_between_the_bounds_and_nothing_else_does(
    values: list[float], at_least: float | None, at_most: float | None
) -> None:
    low, high = -math.inf if at_least is None else at_least, math.inf if at_most is None else at_most
    if (at_least is None and at_most is None) or low > high:
        with pytest.raises(UserError, match="at_least"):
            list(keep_between([], by="value", at_least=at_least, at_most=at_most))
        return
    rows = [example(str(at), scores={"value": value}) for at, value in enumerate(values)]
    kept, dropped = split(keep_between(rows, by="value", at_least=at_least, at_most=at_most))
    assert {row.id for row in kept} == {str(at) for at, value in enumerate(values) if low <= value <= high}
    assert len(kept) + len(dropped) == len(rows)


def test_a_dropped_row_says_its_value_and_the_bound() -> None:
    rows = [example("a", scores={"tokens": 5000.0}), example("b", scores={"tokens": 4.0})]
    _, dropped = split(keep_between(rows, by="tokens", at_least=10, at_most=4096))
    assert [(d.id, d.reason, d.detail) for d in dropped] == [
        ("a", "tokens above 4096", "5000"),
        ("b", "tokens below 10", "4"),
    ]
    missing: list[Any] = [example("c")]
    with pytest.raises(UserError, match="the row c has no score 'tokens'"):
        list(keep_between(missing, by="tokens", at_most=1))
