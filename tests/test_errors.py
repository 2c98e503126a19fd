"""Faults of settings as sentences."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from lib.errors import AugmentError, checked, unknown


class Brush(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = Field(3, ge=1)


class Easel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    brush: Brush | None = None


def fault(values, model=Easel, what="parameter"):
    with pytest.raises(AugmentError) as error:
        checked(model, values, what)
    return str(error.value)


def test_right_values_become_the_model():
    assert checked(Easel, {"name": "a", "brush": {"width": "4"}}) == Easel(name="a", brush=Brush(width=4))


def test_a_wrong_value_is_named_with_its_place_and_what_is_expected():
    text = fault({"name": "a", "brush": {"width": 0}})
    assert text == "parameter 'brush.width': Input should be greater than or equal to 1 (got 0)"
    assert fault({"width": 0}, Brush, "brush 'flat', setting").startswith("brush 'flat', setting 'width': ")


def test_a_missing_value_is_named():
    assert fault({}) == "parameter 'name': Field required"


def test_an_unknown_field_lists_the_known_ones_of_its_place_and_the_nearest():
    assert fault({"name": "a", "brush": {"widht": 4}}) == (
        "parameter 'brush.widht' is not known (do you mean 'width'?); known are: width"
    )
    assert fault({"name": "a", "zzz": 4}) == "parameter 'zzz' is not known; known are: name, brush"


def test_a_model_without_fields_says_that_there_are_none():
    class Bare(BaseModel):
        model_config = ConfigDict(extra="forbid")

    assert fault({"a": 1}, Bare).endswith("'a' is not known; known are: none")


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    assert str(unknown("brush", "rond", ["round", "flat"])) == (
        "unknown brush 'rond' (do you mean 'round'?): known are flat, round"
    )
    assert str(unknown("brush", "zzz", {"round": 1})) == "unknown brush 'zzz': known are round"
