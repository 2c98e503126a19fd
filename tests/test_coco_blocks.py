"""A large COCO file in blocks of records: the same rows as when it is read at once, or a way back to that."""

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.errors import AugmentError
from lib.datasets.formats import Irregular, coco_blocks, coco_pieces, read_dataset, store_dataset
from lib.records.manifest import to_table
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

TEXT = st.text('ab"\\[]{},: é\n', max_size=8)
VALUE = st.recursive(st.none() | st.integers() | TEXT, lambda of: st.lists(of, max_size=3))
JUNK = st.dictionaries(TEXT, VALUE, max_size=3)
BOXES = ({}, {"bbox": None}, {"bbox": [0, 0, 0, 4]}, {"bbox": [9, 9, 1, 1]}, {"category_id": 9}, {"image_id": 99})
ODD = st.sampled_from(BOXES)


def picture(id):
    return {"id": id, "file_name": f"{id}.png", "width": 8, "height": 8}


@st.composite
def documents(draw):
    images = [draw(JUNK) | picture(i) for i in range(draw(st.integers(0, 6)))]
    box = {"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}
    notes = [draw(JUNK) | {"id": i} | box | draw(ODD) for i in range(draw(st.integers(0, 9)))]
    top = draw(JUNK) | {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "a"}]}
    document = {name: top[name] for name in draw(st.permutations(list(top)))}
    return json.dumps(document, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(coco_pieces, "LARGE", 0)


def both(folder, text, chunk, monkeypatch):
    """(in pieces, at once); the first None where the file is to be read at once."""
    path = folder / "a.json"
    path.write_text(text)
    chosen = DatasetSettings(images=folder, annotations=path)
    monkeypatch.setattr(coco_blocks, "CHUNK", chunk)
    monkeypatch.setattr(coco_pieces, "LARGE", 0)
    whole = read_dataset(chosen)
    try:
        pieces = coco_pieces.read_pieces(chosen)
        images, objects = list(pieces.images), list(pieces.objects)
    except Irregular:
        return None, whole
    joined = [_joined(images, ImageRow), _joined(objects, ObjectRow), pieces.envelope]
    return joined, [whole.images.combine_chunks(), whole.objects.combine_chunks(), whole.envelope]


def _joined(tables, row_type):
    return pa.concat_tables([to_table([], row_type), *tables]).combine_chunks()


@settings(max_examples=60)
@given(text=documents(), chunk=st.integers(1, 200))
def test_rows_in_pieces_are_those_of_the_whole_file(tmp_path_factory, text, chunk):
    with pytest.MonkeyPatch.context() as patch:
        pieces, whole = both(tmp_path_factory.mktemp("coco"), text, chunk, patch)
    assert pieces is not None
    assert pieces[2] == whole[2] and pieces[0].equals(whole[0]) and pieces[1].equals(whole[1])


IMAGES = [picture(i) for i in range(9)]
FINE = {"images": IMAGES, "annotations": [], "categories": []}


def test_ids_that_come_twice_are_compared_at_once(tmp_path, monkeypatch):
    pieces, _ = both(tmp_path, json.dumps(FINE | {"images": [*IMAGES, IMAGES[0]]}), 64, monkeypatch)
    assert pieces is None
    notes = [{"id": 1, "image_id": 0, "category_id": 1}] * 9
    pieces, _ = both(tmp_path, json.dumps(FINE | {"annotations": notes}), 64, monkeypatch)
    assert pieces is None


def test_a_record_without_an_id_is_called_by_its_number_in_the_file(tmp_path, monkeypatch):
    change = {"images": [*IMAGES, picture(9) | {"id": None}]}
    pieces, whole = both(tmp_path, json.dumps(FINE | change), 64, monkeypatch)
    assert pieces[0].equals(whole[0]) and pieces[0]["key"].to_pylist()[-1] == "#9"


BAD = ['{"images": [{}', "[]", '{"a": [1}', '{"images": [{"id": 1},, {"id": 2}]}', '{"a": "\\']


@pytest.mark.parametrize("bad", BAD)
def test_a_damaged_file_is_told_as_before(tmp_path, small, bad):
    path = tmp_path / "a.json"
    path.write_text(bad)
    chosen = DatasetSettings(images=tmp_path, annotations=path)
    with pytest.raises(AugmentError) as one:
        read_dataset(chosen)
    with pytest.raises(AugmentError) as two:
        store_dataset(chosen, lambda name, tables: list(tables))
    assert str(one.value) == str(two.value)


def test_no_more_than_a_block_is_held(tmp_path, small, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(FINE))
    monkeypatch.setattr(coco_blocks, "CHUNK", 100)
    pieces = coco_pieces.read_pieces(DatasetSettings(images=tmp_path, annotations=path))
    assert max(len(rows) for rows in pieces.images) <= 3
