"""The store is the truth: what is damaged counts as absent."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.core.errors import AugmentError
from lib.records.store import Store

KEY = "ab" * 32


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_put_is_got(tmp_path, data):
    store = Store(tmp_path)
    store.put("paint", KEY, data)
    assert store.get("paint", KEY) == data


def test_an_absent_item_is_none(tmp_path):
    assert Store(tmp_path).get("paint", KEY) is None
    assert Store(tmp_path).sha256("paint", KEY) is None


def test_a_damaged_item_counts_as_absent_and_is_removed(tmp_path):
    store = Store(tmp_path)
    store.put("paint", KEY, b"some pixels")
    path = store.path("paint", KEY)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert store.get("paint", KEY) is None
    assert not store.has("paint", KEY)


@pytest.mark.parametrize(
    "key", ["../../mine.txt", "/etc/passwd", "", "..", "ab/../../../../mine.txt", "G" * 64, KEY + "\n"]
)
def test_what_is_not_a_key_reaches_no_file(tmp_path, key):
    """A damaged item is removed: a key that leads elsewhere would remove another file."""
    (tmp_path / "mine.txt").write_text("mine")
    store = Store(tmp_path / "store")
    for use in (store.get, store.has, store.size, store.sha256, store.path):
        with pytest.raises(AugmentError, match="is not a key of"):
            use("picture", key)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_truncated_item_counts_as_absent(tmp_path):
    store = Store(tmp_path)
    store.put("paint", KEY, b"some pixels")
    store.path("paint", KEY).write_bytes(b"")
    assert store.get("paint", KEY) is None


def test_the_digest_is_that_of_the_bytes(tmp_path):
    import hashlib

    store = Store(tmp_path)
    noted = store.put("paint", KEY, b"some pixels")
    assert noted == hashlib.sha256(b"some pixels").hexdigest() == store.sha256("paint", KEY)


def test_no_temporary_file_stays(tmp_path):
    Store(tmp_path).put("paint", KEY, b"x")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [KEY]


@pytest.mark.parametrize("instead", ["folder", "circle of links", "file for its folder"])
def test_what_is_not_a_file_counts_as_absent(tmp_path, instead):
    store = Store(tmp_path)
    path = store.path("paint", KEY)
    place = path.parent if instead == "file for its folder" else path
    place.parent.mkdir(parents=True)
    {"folder": Path.mkdir, "circle of links": lambda p: p.symlink_to(p), "file for its folder": Path.touch}[instead](
        place
    )
    assert store.get("paint", KEY) is store.sha256("paint", KEY) is None and not store.has("paint", KEY)
    assert instead == "folder" or store.size("paint", KEY) == -1
