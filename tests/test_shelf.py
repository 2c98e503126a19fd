"""A shelf is a mapping whose rows lie in a file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lib.records.shelf import Shelf

TEXTS = st.text(st.characters() | st.characters(categories=["Cs"]))  # file names may hold surrogates


@given(st.lists(st.tuples(TEXTS, st.integers(-(2**63), 2**63 - 1))))
def test_it_is_a_mapping(tmp_path_factory, pairs):
    shelf, known = Shelf[int](tmp_path_factory.getbasetemp()), dict(pairs)
    shelf.put(pairs)
    assert dict(shelf.items()) == known and len(shelf) == len(known)
    assert all(shelf.get(text) == value and text in shelf for text, value in known.items())


def test_what_is_not_there_is_none(tmp_path):
    shelf = Shelf[None](tmp_path)
    shelf.put([("a", None)])
    assert "a" in shelf and "b" not in shelf and shelf.get("b") is None


def test_items_are_sorted(tmp_path):
    shelf = Shelf[int](tmp_path)
    shelf.put([("b", 1), ("a", 2), ("á", 3)])
    assert [text for text, _ in shelf.items()] == ["a", "b", "á"]


@given(st.lists(TEXTS), TEXTS)
def test_values_under_a_text_are_sorted(tmp_path_factory, texts, begin):
    shelf = Shelf[str](tmp_path_factory.getbasetemp())
    texts += [begin + text for text in texts]
    shelf.put((text, text) for text in texts)
    assert list(shelf.under(begin)) == [text for text, _ in shelf.items() if text.startswith(begin)]


def test_its_file_has_no_name(tmp_path):
    shelf = Shelf[bytes](tmp_path / "new")
    shelf.put([("a", b"\0")])
    assert not list((tmp_path / "new").iterdir())
