"""Manifests: written by rename, checked on reading."""

import json
import os

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lib.core.errors import AugmentError
from lib.core.files import atomic_path, atomic_write
from lib.records.manifest import Ref, read_manifest, to_table, write_manifest
from lib.records.rows import OK, DrawRow, ReviewRow

ROWS = [DrawRow("a", OK, "", "", "1", "a.jpg", "00"), DrawRow("b", "rejected", "picture_lost", "x", "2", "b.jpg", "")]


def test_rows_come_back_as_they_were(tmp_path):
    write_manifest(tmp_path / "draw.parquet", ROWS, DrawRow)
    rows = read_manifest(tmp_path / "draw.parquet", DrawRow)
    assert [DrawRow(*r) for r in rows.itertuples(index=False)] == ROWS


def test_no_rows_are_a_manifest_too(tmp_path):
    ref = write_manifest(tmp_path / "draw.parquet", [], DrawRow)
    assert ref.rows == 0 and read_manifest(ref.file, DrawRow).empty


def test_equal_rows_give_equal_bytes(tmp_path):
    one = write_manifest(tmp_path / "one.parquet", ROWS, DrawRow)
    two = write_manifest(tmp_path / "two.parquet", read_manifest(one.file, DrawRow), DrawRow)
    assert one.sha256 == two.sha256


def test_no_value_of_a_row_is_copied_on_its_way_into_a_column(monkeypatch):
    monkeypatch.setattr("copy.deepcopy", lambda *_: pytest.fail("a copy of each value takes most of the time"))
    rows = [ReviewRow(str(i), OK, "", "", "i", "p", "s", "n", ["a"]) for i in range(3)]
    table = to_table(rows, ReviewRow)
    assert table["key"].to_pylist() == ["0", "1", "2"] and table["boxes"].to_pylist() == [["a"]] * 3


def test_a_missing_manifest_names_the_stage_that_writes_it(tmp_path):
    with pytest.raises(AugmentError, match="stage 'plan' writes it"):
        read_manifest(tmp_path / "plan.parquet", DrawRow)


def test_a_foreign_manifest_is_reported_with_expected_and_found(tmp_path):
    write_manifest(tmp_path / "draw.parquet", ROWS, DrawRow)
    with pytest.raises(AugmentError, match=r"(?s)found .*sha256.*expected .*picture"):
        read_manifest(tmp_path / "draw.parquet", ReviewRow)


def test_a_broken_manifest_is_a_clear_error(tmp_path):
    (tmp_path / "draw.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(AugmentError, match="cannot be read as Parquet"):
        read_manifest(tmp_path / "draw.parquet", DrawRow)


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@example(place=2757, bit=7)  # in the name of a column
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_flipped_bit_is_an_error_of_ours_or_changes_nothing(tmp_path, place, bit):
    path = tmp_path / "draw.parquet"
    write_manifest(path, ROWS * 50, DrawRow)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        rows = read_manifest(path, DrawRow)
    except AugmentError as error:
        assert str(path) in str(error) and "delete it and run again" in str(error)
    else:
        assert [DrawRow(*r) for r in rows.itertuples(index=False)] == ROWS * 50


def test_what_a_file_says_of_pandas_is_not_believed(tmp_path):
    """It could turn a column into an index, or name types."""
    table = to_table(ROWS, DrawRow)
    metadata = {"index_columns": ["key"], "columns": [], "column_indexes": [], "pandas_version": "2.0.0"}
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(metadata)}), tmp_path / "draw.parquet")
    assert read_manifest(tmp_path / "draw.parquet", DrawRow).key.tolist() == ["a", "b"]


def test_a_changed_file_is_not_intact(tmp_path):
    ref = write_manifest(tmp_path / "draw.parquet", ROWS, DrawRow)
    assert ref.intact()
    ref.file.write_bytes(b"other")
    assert not ref.intact()
    assert not Ref(path=str(tmp_path / "gone"), rows=0, sha256="").intact()


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"former")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("power cut")
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_mode_that_its_user_gives_files(tmp_path):
    former = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file.bin", b"new")
    finally:
        os.umask(former)
    assert (tmp_path / "file.bin").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("instead", ["folder", "folder with files"])
def test_a_folder_where_a_file_is_to_be_written_is_named_with_the_remedy(tmp_path, instead):
    place = tmp_path / "ids.jsonl"
    place.mkdir()
    if instead == "folder with files":
        (place / "mine.txt").write_text("mine")
    with pytest.raises(AugmentError, match=rf"{place} is a folder, and a file is to be written there: remove it"):
        atomic_write(place, b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["ids.jsonl"]


@pytest.mark.parametrize("instead", ["file", "circle of links", "link to nothing"])
def test_what_is_in_the_way_of_a_folder_is_named_with_the_remedy(tmp_path, instead):
    place = tmp_path / "parts"
    place.touch() if instead == "file" else place.symlink_to("parts" if instead == "circle of links" else "nowhere")
    with pytest.raises(AugmentError, match=rf"{place} is not a folder, and a.json is to be written below it: remove"):
        atomic_write(place / "plan" / "a.json", b"{}")


def test_a_link_where_a_file_is_to_be_written_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name, target in (("a", "mine"), ("b", "b"), ("c", "nowhere")):
        (tmp_path / name).symlink_to(target)
        atomic_write(tmp_path / name, b"{}")
        assert (tmp_path / name).read_bytes() == b"{}" and not (tmp_path / name).is_symlink()
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "nowhere").exists()


def test_a_name_with_an_endless_suffix_is_written(tmp_path):
    atomic_write(tmp_path / f"a.{'x' * 250}", b"{}")
