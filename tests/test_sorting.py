"""Rows in order of more than memory holds: as a stable sort gives them, and no file left behind."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.records import sorting
from lib.records.manifest import grouped
from lib.records.sorting import LaidRows, sorted_rows


@settings(max_examples=25)
@given(
    places=st.lists(st.integers(0, 40), max_size=120),
    size=st.integers(1, 30),
    pieces=st.integers(1, 50),
)
def test_rows_come_as_a_stable_sort_gives_them(tmp_path_factory, places, size, pieces):
    folder = tmp_path_factory.mktemp("sorting")
    table = pa.table({"place": pa.array(places, pa.int64()), "number": pa.array(range(len(places)), pa.int64())})
    tables = [table.slice(start, pieces) for start in range(0, len(table), pieces)]
    found = list(sorted_rows(tables, lambda rows: rows["place"].to_numpy(), 41, len(table), folder, size))
    wanted = table.take(np.argsort(places, kind="stable").astype(np.int64))
    joined = pa.concat_tables([table.schema.empty_table(), *(rows for _, rows in found)])
    assert joined.combine_chunks().equals(wanted.combine_chunks())
    assert all(rows["place"].to_pylist() == places.tolist() for places, rows in found)
    assert all(places[-1] < after[0] for (places, _), (after, _) in pairwise(found))
    assert not list(folder.iterdir())


def test_places_may_be_hashes(tmp_path):
    places = np.random.default_rng(0).integers(0, 2**64, 100, np.uint64)
    table = pa.table({"place": pa.array(np.append(places, np.uint64(2**64 - 1)))})
    found = list(sorted_rows([table], lambda rows: rows["place"].to_numpy(), 2**64, 101, tmp_path, 8))
    assert len(found) > 1 and [place for some, _ in found for place in some] == sorted(table["place"].to_pylist())


@given(size=st.integers(0, 25), cut=st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_rows_that_wait_are_read_where_they_are_needed(tmp_path_factory, size, cut):
    rows = pd.DataFrame({"number": range(size)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "GROUP", 4)
        tables = [pa.Table.from_pandas(rows.iloc[:0], preserve_index=False), pa.table({"number": range(size)})]
        laid = LaidRows(tables, tmp_path_factory.mktemp("laid"))
        pd.testing.assert_frame_equal(laid[slice(*cut)], rows[slice(*cut)])
        assert len(laid) == size and [n for table in laid for n in table["number"].to_pylist()] == [*range(size)]


def test_no_more_than_a_range_is_held_and_nothing_is_left_behind_where_it_ends_early(tmp_path):
    table = pa.table({"place": pa.array(range(1000), pa.int64())})
    rows = sorted_rows([table], lambda rows: rows["place"].to_numpy()[::-1], 1000, 1000, tmp_path, 100)
    assert len(next(rows)[1]) == 100 and len(list(tmp_path.iterdir())) == 9
    rows.close()
    assert not list(tmp_path.iterdir())


def test_files_open_at_once_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "_FILES", 4)
    table = pa.table({"place": pa.array(range(100), pa.int64())})
    assert [len(rows) for _, rows in sorted_rows([table], lambda t: t["place"].to_numpy(), 100, 100, tmp_path, 1)] == [
        25
    ] * 4


@pytest.mark.parametrize("size", [1, 7, 100])
def test_grouped_rows_are_the_same_rows(size):
    table = pa.table({"a": range(50)})
    tables = list(grouped([table.slice(0, 3), table.slice(3, 0), table.slice(3, 40), table.slice(43)], size))
    assert pa.concat_tables(tables).combine_chunks().equals(table.combine_chunks())
    assert all(len(one) == size for one in tables[:-1]) and 0 < len(tables[-1]) <= size
