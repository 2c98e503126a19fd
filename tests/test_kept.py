"""What is kept between runs: read as it was written, or not at all."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.core.errors import AugmentError
from lib.records import kept
from lib.records.manifest import write_manifest
from lib.records.rows import OK, DrawRow


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    numbers: dict[str, int]


THING = Thing("a thing", {"b": 2, "a": 10**30})


@pytest.fixture
def path(tmp_path):
    kept.write(tmp_path / "thing.json", THING)
    return tmp_path / "thing.json"


def test_what_was_written_is_read_and_a_person_reads_it_too(path):
    assert kept.read(path, Thing) == THING and kept.sealed(path)
    assert '\n  "name": "a thing",\n' in path.read_text()


def test_no_file_is_none(tmp_path):
    assert kept.read(tmp_path / "thing.json", Thing) is None and not kept.sealed(tmp_path / "thing.json")


def test_a_file_of_a_former_version_has_no_digest_and_is_read(path):
    path.write_bytes(msgspec.json.encode(THING))
    assert kept.read(path, Thing) == THING and not kept.sealed(path)


def test_equal_values_give_equal_bytes(path, tmp_path):
    kept.write(tmp_path / "other.json", {"name": "a thing", "numbers": {"b": 2, "a": 10**30}})
    assert (tmp_path / "other.json").read_bytes() == path.read_bytes()


def test_another_layout_of_the_same_content_is_not_damage(path):
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert kept.read(path, Thing) == THING


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    kept.write(tmp_path / "x.json", {"x": float("nan")})
    assert kept.read(tmp_path / "x.json", dict[str, float | None]) == {"x": None}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_changes_nothing(path, place, bit):
    kept.write(path, THING)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        assert kept.read(path, Thing) == THING
    except AugmentError as error:
        assert str(path) in str(error) and kept.ANEW in str(error)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": 1, "numbers": {}}', b'{"name": "", "more": 1}'],
)
def test_garbage_is_one_sentence_with_file_and_remedy(path, data):
    path.write_bytes(data)
    with pytest.raises(AugmentError, match=r"thing\.json is damaged \(.*\): remove it, and it is made anew$"):
        kept.read(path, Thing)


def test_a_folder_in_a_files_place_is_the_same(tmp_path):
    (tmp_path / "thing.json").mkdir()
    with pytest.raises(AugmentError, match=r"thing\.json cannot be read .*remove it"):
        kept.read(tmp_path / "thing.json", Thing)


def test_a_change_that_was_meant_needs_its_digest_gone(path):
    value = json.loads(path.read_text())
    value["name"] = "another"
    path.write_text(json.dumps(value))
    with pytest.raises(AugmentError, match=r'altered since.*remove its line "sha256"'):
        kept.read(path, Thing)
    del value["sha256"]
    path.write_text(json.dumps(value))
    assert kept.read(path, Thing) == Thing("another", THING.numbers)


@pytest.mark.parametrize("data", [None, b"", b"[1]", b'{"__class__": "subprocess.getoutput"}', b"[" * 100_000, b"\xff"])
def test_what_is_not_of_the_type_counts_as_absent(data):
    assert kept.typed(data, dict[str, int]) is None
    assert kept.typed(b'{"a": 1}', dict[str, int]) == {"a": 1}
    assert kept.typed(b'{"a": 1}', dict[str, int], lambda value: "b" in value) is None


# Records of jobs


@pytest.fixture
def part(tmp_path):
    ref = write_manifest(tmp_path / "part.parquet", [DrawRow("a", OK, "", "", "1", "a.jpg", "00")], DrawRow)
    kept.note_ref(ref)
    return ref


def test_a_noted_file_is_known_wherever_its_folder_lies(part, tmp_path):
    assert kept.noted_ref(part.file) == part
    assert json.loads((tmp_path / "part.json").read_bytes()) == {"rows": 1, "sha256": part.sha256}
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name} moved")) / "part.parquet"
    assert kept.noted_ref(moved) == part.model_copy(update={"path": str(moved)})


@pytest.mark.parametrize("damage", ["record gone", "file gone", "file altered", "folder"])
def test_what_is_not_as_it_was_noted_is_unknown(part, damage):
    record = part.file.with_suffix(".json")
    if damage == "file altered":
        part.file.write_bytes(part.file.read_bytes()[:-1] + b"X")
    else:
        (part.file if damage == "file gone" else record).unlink()
    if damage == "folder":
        record.mkdir()
    assert kept.noted_ref(part.file) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b'{"rows": 1}',
        b'{"rows": -1, "sha256": "%s"}',
        b'{"rows": "1", "sha256": "%s"}',
        b'{"rows": 1, "sha256": "%s\\n"}',
        b'{"rows": 1, "sha256": "%s", "path": "/etc/passwd"}',
        b'{"rows": 1, "sha256": "%s"}' + b" " * 1024,
        b'{"__class__": "subprocess.getoutput", "data": {"cmd": "id"}}',
        b'{"metadata": {"serializer": {"type": "pickle"}}, "result": "gASV"}',
    ],
)
def test_a_record_that_is_none_of_ours_is_ignored(part, data):
    sha256 = part.sha256.encode()
    part.file.with_suffix(".json").write_bytes(data.replace(b"%s", sha256))
    assert kept.noted_ref(part.file) is None
