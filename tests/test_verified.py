"""Which files are whole: a look where nothing changed, a reading where something did."""

import os

import pytest

from lib.core.files import file_digest
from lib.records.store import Store
from lib.records.verified import VerifiedFiles, keep_shown


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "store" / "a"
    path.parent.mkdir()
    path.write_bytes(b"whole")
    return path


def whole(root, file, read, **values):
    """One run's question; `read` counts the readings."""
    verified = VerifiedFiles(root, **values)
    found = verified.whole(file, "digest", lambda: read.append(file) or file.read_bytes() == b"whole")
    verified.save()
    return found


def test_a_file_is_read_once_and_then_looked_at(tmp_path, file):
    read = []
    assert whole(tmp_path, file, read) and whole(tmp_path, file, read) and len(read) == 1


@pytest.mark.parametrize("damage", [b"whol", b"Whole"])
def test_a_file_of_another_size_or_time_is_read_again(tmp_path, file, damage):
    read = []
    whole(tmp_path, file, read)
    file.write_bytes(damage)
    os.utime(file, ns=(1, 1))
    assert not whole(tmp_path, file, read) and len(read) == 2


def test_the_expected_digest_is_part_of_what_is_remembered(tmp_path, file):
    whole(tmp_path, file, [])
    assert not VerifiedFiles(tmp_path).whole(file, "another digest", lambda: False)


def test_a_missing_file_is_not_whole_and_not_read(tmp_path, file):
    file.unlink()
    assert not whole(tmp_path, file, read := []) and not read


def test_anew_every_file_is_read_and_remembered(tmp_path, file):
    read = []
    assert whole(tmp_path, file, read) and whole(tmp_path, file, read, anew=True) and len(read) == 2
    assert whole(tmp_path, file, read) and len(read) == 2


def test_files_that_nobody_asks_for_are_forgotten(tmp_path, file):
    whole(tmp_path, file, [])
    verified = VerifiedFiles(tmp_path)
    verified.save()
    assert not VerifiedFiles(tmp_path).whole(file, "digest", lambda: False)


def test_a_damaged_memory_is_no_memory(tmp_path, file):
    whole(tmp_path, file, [])
    (tmp_path / "manifests" / "seen.parquet").write_bytes(b"PAR1 garbage")
    assert whole(tmp_path, file, read := []) and len(read) == 1


def test_a_moved_workspace_remembers(tmp_path, file):
    whole(tmp_path, file, [])
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name} moved"))
    assert whole(moved, moved / "store" / "a", read := []) and not read


def test_what_is_shown_is_drawn_once_for_a_key_and_again_where_it_was_damaged(tmp_path):
    path, store, drawn = tmp_path / "sheet.jpg", Store(tmp_path / "store"), []

    def keep(key):
        keep_shown(path, store, key * 64, lambda: drawn.append(key) or key.encode())

    for key in ("a", "a", "b", "b"):
        keep(key)
    assert drawn == ["a", "b"] and path.read_bytes() == b"b"
    path.write_bytes(b"x")
    keep("b")
    path.unlink()
    keep("b")
    assert drawn == ["a", "b", "b", "b"] and file_digest(path)
    store.path("shown", "b" * 64).write_bytes(b"damaged")
    keep("b")
    assert len(drawn) == 5


def test_a_folder_in_the_place_of_a_file_is_not_whole_and_not_read(tmp_path, file):
    file.unlink()
    file.mkdir()
    assert not VerifiedFiles(tmp_path).whole(file, "", lambda: pytest.fail("it was read"))
