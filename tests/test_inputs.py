"""What jobs of a run read: requests of a plan."""

import pytest
from test_requests import make_request

from lib.core.errors import AugmentError
from lib.core.keys import canonical
from lib.records.manifest import write_manifest
from lib.records.rows import OK, REJECTED, ImageRow, PlanRow
from tasks.inputs import outcomes_in_turn, outcomes_of, records_of

KEYS = ["e", "d", "c", "b", "a"]


@pytest.fixture
def plan(tmp_path):
    status = dict.fromkeys(KEYS, OK) | {"d": REJECTED}
    rows = [
        PlanRow(key, status[key], "", "", "1", 0, key, canonical(make_request(variant=i)), [], 1.0)
        for i, key in enumerate(KEYS)
    ]
    return write_manifest(tmp_path / "plan.parquet", rows, PlanRow)


@pytest.mark.parametrize("asked", [[["e", "c", "a"]], [["e"], [], ["c"], ["a"]], [["e", "c"], ["a"]], [["b"]], [[]]])
def test_asked_for_in_turn_they_are_those_of_once(plan, asked):
    of = outcomes_in_turn(plan)
    assert [of(keys) for keys in asked] == [dict(outcomes_of(plan, keys)) for keys in asked]


def test_a_request_that_the_plan_does_not_have_is_an_error_that_names_the_file(plan):
    of = outcomes_in_turn(plan)
    of(["e"])
    with pytest.raises(AugmentError, match=r"plan\.parquet has no request d"):
        of(["d"])


@pytest.mark.parametrize("count", [0, 3])
def test_records_are_found_by_the_key_of_their_picture(tmp_path, count):
    known = {str(i): b'{"id":%d}' % i for i in range(count)}
    rows = [
        ImageRow(key, OK, "", "", f"{key}.png", "", "", "", 1, 1, "", 0, 0, "", text) for key, text in known.items()
    ]
    records = records_of(write_manifest(tmp_path / "images.parquet", rows, ImageRow))
    assert dict(records) == known and len(records) == count
    assert records.get("9") is None
