"""Keys and draws: equal contents give equal keys, and one more candidate moves only the choices that it wins."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel

from lib.core.errors import AugmentError
from lib.core.keys import canonical, hash_draw, key_of
from lib.records.requests import Donor, Label, Outcome, Pass, Request, parsed, picture_keys

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=12,
)
NAMES = st.text(st.characters(codec="utf-8"), max_size=8)


def reordered(value):
    """The same value, every mapping in it filled in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(inner) for key, inner in reversed(value.items())}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


def step(seed=1, **changes):
    values = {
        "window": (0, 0, 8, 8),
        "shape": (8, 8),
        "region": ((1, 1, 4, 4),),
        "boxes": ((1.0, 1.0, 4.0, 4.0),),
        "phrases": ("a box",),
        "prompt": "boxes",
        "negative_prompt": "",
        "seed": seed,
    }
    return Pass(**(values | changes))


def make_request(**changes):
    values = {
        "image_key": "1",
        "source": "ab" * 32,
        "frame": "upright",
        "width": 20,
        "height": 10,
        "split": "train",
        "variant": 0,
        "edit": "replace",
        "painter": {"name": "p", "version": 1, "settings": {}},
        "composite": {"name": "c", "version": 1, "settings": {}},
        "passes": (step(1), step(2)),
        "labels": (),
    }
    return Request(**(values | changes))


@given(PLAIN)
def test_canonical_json_reads_back_as_the_value(value):
    assert json.loads(canonical(value)) == value


@given(PLAIN)
def test_the_order_of_mappings_leaves_the_key_alone(value):
    assert key_of(value) == key_of(reordered(value))


@given(PLAIN, PLAIN)
def test_other_contents_give_another_key(one, two):
    assume(canonical(one) != canonical(two))
    assert key_of(one) != key_of(two)


def test_parts_are_separated_and_not_run_together():
    assert len({key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of(["ab", "c"])}) == 4


def test_canonical_json_has_no_spaces_and_sorted_names():
    assert canonical({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()


def test_a_model_counts_as_its_values():
    class Pair(BaseModel):
        b: int
        a: tuple[int, ...]

    assert canonical(Pair(b=1, a=(2, 3))) == b'{"a":[2,3],"b":1}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused(number):
    with pytest.raises(ValueError):
        canonical({"a": number})


def test_a_value_without_canonical_json_is_refused_by_its_type():
    with pytest.raises(TypeError, match="set has no canonical JSON"):
        canonical({"a": {1, 2}})


@given(PLAIN)
def test_a_draw_has_63_bits(part):
    assert 0 <= hash_draw(part) < 2**63


def test_draws_are_spread_evenly():
    values = [hash_draw("seed", i) / 2**63 for i in range(4000)]
    for low in (0, 0.25, 0.5, 0.75):
        assert 900 < sum(low <= value < low + 0.25 for value in values) < 1100


def test_a_request_reads_back_with_the_same_key():
    request = make_request()
    assert key_of(Request.model_validate_json(canonical(request))) == key_of(request)


def test_every_pass_has_keys_of_its_own():
    keys = picture_keys(make_request(passes=(step(1), step(1), step(1))))
    assert len({key for pair in keys for key in pair}) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"source": "cd" * 32},
        {"frame": "stored"},
        {"painter": {"name": "p", "version": 2, "settings": {}}},
        {"painter": {"name": "p", "version": 1, "settings": {"steps": 3}}},
        {"passes": (step(3), step(2))},
        {"passes": (step(1, prompt="other"), step(2))},
        {"passes": (step(1, window=(0, 0, 9, 8)), step(2))},
    ],
)
def test_what_the_paint_depends_on_moves_all_its_keys(change):
    before, after = picture_keys(make_request()), picture_keys(make_request(**change))
    assert all(a != b for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize(
    "change", [{"image_key": "2"}, {"variant": 4}, {"split": "val"}, {"labels": (Label(source="1", painted=False),)}]
)
def test_what_the_paint_does_not_depend_on_leaves_its_keys_alone(change):
    assert picture_keys(make_request(**change)) == picture_keys(make_request())


def test_a_later_pass_leaves_the_keys_of_the_earlier_ones_alone():
    short, long = make_request(passes=(step(1),)), make_request()
    assert picture_keys(long)[:1] == picture_keys(short)


def test_an_outcome_knows_the_regions_of_all_passes_and_keys_do_not():
    steps = step(), step(region=((5, 5, 7, 7), (1, 1, 4, 4)))
    request = make_request(passes=steps)
    outcome = Outcome.model_validate_json(canonical(request))
    assert outcome.regions == request.regions == ((1, 1, 4, 4), (5, 5, 7, 7))
    assert b"regions" not in canonical(request)


DONOR = {"annotation": "1", "digest": "d", "box": (0, 0, 4, 4), "frame": "upright", "flip": False, "polygon": None}


def test_a_donor_of_a_former_version_keeps_its_form_and_so_its_key():
    assert "around" not in json.loads(canonical(Donor(**DONOR)))
    assert json.loads(canonical(Donor(**DONOR, around=True)))["around"] is True
    assert Donor.model_validate_json(canonical(Donor(**DONOR, around=True))).around


@pytest.mark.parametrize("text", [b"{}", b"[]", b"not JSON", b'{"passes": [{"seed": "x"}]}'])
@pytest.mark.parametrize("kind", [Request, Outcome])
def test_a_forged_request_is_one_sentence_with_the_remedy(kind, text):
    with pytest.raises(AugmentError, match=r"a request of the plan cannot be read.*run again") as error:
        parsed(kind, text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
