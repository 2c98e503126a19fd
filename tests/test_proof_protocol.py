"""The protocol: fixed before the test set is opened, and refused when it is changed afterwards."""

import json

import pytest
from pydantic import ValidationError

from lib.core.errors import AugmentError, checked
from lib.proof.protocol import Protocol, changed, open_test, opened, read_protocol, write_protocol

VALUES = {
    "detector": "compact",
    "detector_version": 1,
    "detector_settings": {"size": 320, "stride": 4},
    "arms": ["A", "B", "C", "D", "F", "X", "Y"],
    "ratios": [1.0, 2.0],
    "seeds": list(range(8)),
    "steps": 400,
    "batch": 8,
    "rate": 0.001,
    "schedule": {"warmup": 30},
    "augmentation": {"mirror": True},
    "contrasts": ["F > B, C, D", "F@2 > A", "A > X", "Y > A"],
    "pools": {"train": "a" * 64, "test": "b" * 64},
    "names": ["crack", "dent"],
    "software": "0.4.0",
}


def protocol(**changes):
    return Protocol.model_validate(VALUES | changes)


def test_a_protocol_comes_back_from_its_file_with_its_digest(tmp_path):
    digest = write_protocol(tmp_path, protocol())
    assert read_protocol(tmp_path) == protocol() and read_protocol(tmp_path).digest == digest == protocol().digest
    assert json.loads((tmp_path / "protocol.json").read_text())["steps"] == 400


@pytest.mark.parametrize("field", sorted(VALUES))
def test_every_field_is_part_of_the_digest(field):
    others = {
        "detector": "fcos",
        "detector_version": 2,
        "detector_settings": {},
        "arms": ["A", "B", "C", "D", "F", "X", "Y", "H"],
        "ratios": [2.0, 1.0],
        "seeds": list(range(9)),
        "steps": 401,
        "batch": 9,
        "rate": 0.002,
        "schedule": {"warmup": 20},
        "augmentation": {},
        "contrasts": VALUES["contrasts"][::-1],
        "pools": VALUES["pools"] | {"test": "c" * 64},
        "names": ["dent", "crack"],
        "software": "0.5.0",
    }
    assert protocol(**{field: others[field]}).digest != protocol().digest
    assert changed(protocol(), protocol(**{field: others[field]}))[0].startswith(field)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"contrasts": ["F > Q"]}, "arm 'Q' is not among A, B, C, D, F, X, Y"),
        ({"contrasts": ["F@3 > A"]}, "ratio 3 is not among 1, 2"),
        ({"contrasts": ["F < A"]}, "write 'F > A'"),
        ({"seeds": [1, 1]}, "different"),
        ({"pools": {"test": "12"}}, "pattern"),
        ({"extra": 1}, "'extra' is not known"),
        ({"alpha": float("nan")}, "finite"),
        ({"metric": "f1"}, "'ap'"),
    ],
)
def test_a_wrong_protocol_is_refused_in_a_sentence(values, message):
    with pytest.raises(AugmentError, match=message):
        checked(Protocol, VALUES | values)


def test_a_protocol_may_be_written_anew_until_the_test_set_is_opened(tmp_path):
    write_protocol(tmp_path, protocol())
    write_protocol(tmp_path, protocol(steps=500))
    assert opened(tmp_path) is None
    note = open_test(tmp_path, protocol(steps=500))
    assert note.digest == protocol(steps=500).digest and note.at.endswith("Z")


def test_opening_twice_under_one_protocol_keeps_the_first_note(tmp_path):
    write_protocol(tmp_path, protocol())
    first = open_test(tmp_path, protocol())
    before = (tmp_path / "opened.json").read_bytes()
    assert open_test(tmp_path, protocol()) == first == opened(tmp_path)
    assert write_protocol(tmp_path, protocol()) == first.digest
    assert (tmp_path / "opened.json").read_bytes() == before


def test_after_opening_another_protocol_is_refused_field_by_field_with_the_way_out(tmp_path):
    write_protocol(tmp_path, protocol())
    open_test(tmp_path, protocol())
    other = protocol(steps=600, pools=VALUES["pools"] | {"test": "c" * 64}, detector_settings={"size": 256})
    for write in (write_protocol, open_test):
        with pytest.raises(AugmentError) as caught:
            write(tmp_path, other)
        text = str(caught.value)
        assert "steps: 400 → 600" in text and "pools.test: bbbbbbbbbbbb → cccccccccccc" in text
        assert "detector_settings.size: 320 → 256" in text and "detector_settings.stride: 4 → none" in text
        assert "another workspace" in text and "seeds" not in text
    assert read_protocol(tmp_path) == protocol()


def test_seeds_added_after_opening_are_refused_with_the_reason(tmp_path):
    write_protocol(tmp_path, protocol())
    open_test(tmp_path, protocol())
    with pytest.raises(AugmentError, match="seeds added after a look at the test set are a change too"):
        write_protocol(tmp_path, protocol(seeds=list(range(9))))


def test_a_protocol_that_was_changed_by_hand_after_opening_changes_nothing(tmp_path):
    write_protocol(tmp_path, protocol())
    open_test(tmp_path, protocol())
    text = (tmp_path / "protocol.json").read_text().replace('"steps": 400', '"steps": 600')
    (tmp_path / "protocol.json").write_text(text)
    with pytest.raises(AugmentError, match="steps: 400 → 600"):
        open_test(tmp_path, read_protocol(tmp_path))


def test_a_note_that_was_changed_by_hand_is_refused(tmp_path):
    write_protocol(tmp_path, protocol())
    open_test(tmp_path, protocol())
    path = tmp_path / "opened.json"
    path.write_text(path.read_text().replace('"steps": 400', '"steps": 600'))
    with pytest.raises(AugmentError, match="was changed"):
        opened(tmp_path)


def test_the_test_set_is_not_opened_without_a_written_protocol(tmp_path):
    with pytest.raises(AugmentError, match="write the protocol before"):
        open_test(tmp_path, protocol())
    write_protocol(tmp_path, protocol())
    with pytest.raises(AugmentError, match="steps: 400 → 401"):
        open_test(tmp_path, protocol(steps=401))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": "many"}'])
def test_a_damaged_protocol_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "protocol.json").write_text(text)
    with pytest.raises(AugmentError, match=r"protocol\.json"):
        read_protocol(tmp_path)


def test_too_few_seeds_are_known_before_anything_is_trained():
    assert protocol().seeds_short == 0 and protocol(seeds=[0, 1]).seeds_short == 4


def test_a_protocol_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        protocol().steps = 3


def test_a_protocol_without_claims_is_a_table_alone():
    assert protocol(contrasts=[]).contrasts_read() == [] and protocol(contrasts=[]).seeds_short == 0
