"""Keys of many texts are those of the lists that they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lib.core.keys import key_of, key_of_texts


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])))))
def test_a_key_of_texts_is_that_of_their_lists(texts):
    parts = (4, "pixels", [["kid", 1, None]])
    assert key_of_texts(*parts, texts=map(iter, texts)) == key_of(*parts, texts)
