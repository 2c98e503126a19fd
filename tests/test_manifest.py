"""Manifests: written by rename, checked on reading."""

import pytest

from lib.errors import AugmentError
from lib.manifest import Ref, atomic_path, read_manifest, write_manifest
from lib.schemas import OK, DrawRow, ReviewRow

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


def test_a_missing_manifest_names_the_stage_that_writes_it(tmp_path):
    with pytest.raises(AugmentError, match="stage 'plan' writes it"):
        read_manifest(tmp_path / "plan.parquet", DrawRow)


def test_a_foreign_manifest_tells_expected_and_found(tmp_path):
    write_manifest(tmp_path / "draw.parquet", ROWS, DrawRow)
    with pytest.raises(AugmentError, match=r"(?s)found .*sha256.*expected .*picture"):
        read_manifest(tmp_path / "draw.parquet", ReviewRow)


def test_a_broken_manifest_is_a_clear_error(tmp_path):
    (tmp_path / "draw.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(AugmentError, match="cannot be read as Parquet"):
        read_manifest(tmp_path / "draw.parquet", DrawRow)


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
