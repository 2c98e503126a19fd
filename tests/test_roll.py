"""A roll is a list whose items lie in a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.records.roll import Roll

PLACES = st.none() | st.integers(-9, 9)


@given(st.lists(st.text() | st.integers()), st.tuples(PLACES, PLACES, PLACES.filter(lambda step: step != 0)))
def test_it_is_a_list(tmp_path_factory, items, cut):
    roll = Roll(tmp_path_factory.getbasetemp(), items)
    assert list(roll) == items and len(roll) == len(items) and bool(roll) == bool(items)
    assert roll[slice(*cut)] == items[slice(*cut)]
    assert [roll[-1 - i] for i in range(len(items))] == items[::-1]


def test_it_grows_after_it_was_read(tmp_path):
    roll = Roll(tmp_path, ["a"])
    assert roll[0] == "a"
    roll.append("b")
    assert list(roll) == ["a", "b"]
    with pytest.raises(IndexError):
        roll[2]


def test_nothing_of_it_is_seen_in_its_folder(tmp_path):
    roll = Roll(tmp_path / "parts", ["a"])
    assert list(roll) == ["a"] and not list((tmp_path / "parts").iterdir())
