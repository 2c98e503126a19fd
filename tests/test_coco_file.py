"""A COCO file of our own, read some records at a time, gives what it gives at once."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from lib.core.errors import AugmentError
from lib.datasets import coco_file
from lib.datasets.coco_file import CocoFile
from lib.datasets.formats import Irregular

DOCUMENT = {
    "info": {"year": 2020},
    "images": [{"id": 1}, {"id": "a"}, {"id": 2.0}],
    "annotations": [{"id": i, "image_id": image} for i, image in enumerate([2, "a", 1.0, 2, "a", 3])],
}


class Image(msgspec.Struct):
    id: int | float | str


def written(folder: Path, text: str) -> Path:
    path = folder / "annotations.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("regular", [True, False])
def test_records_and_those_of_a_picture(tmp_path, monkeypatch, regular):
    def irregular(path: Path) -> None:
        raise Irregular

    if not regular:
        monkeypatch.setattr(coco_file, "read_blocks", irregular)
    coco = CocoFile(written(tmp_path, json.dumps(DOCUMENT)))
    assert json.loads(bytes(coco.top["info"])) == {"year": 2020}
    assert [image.id for image in coco.records("images", Image)] == [1, "a", 2.0]
    notes = coco.by_picture(tmp_path)
    ids = [[json.loads(record)["id"] for record in notes.of(msgspec.Raw(id))] for id in (b"1", b'"a"', b"2.0", b"4")]
    assert ids == [[2], [1, 4], [0, 3], []]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (json.dumps(DOCUMENT)[:-9], "is damaged (Input data was truncated)"),
        (json.dumps(DOCUMENT | {"images": [{"id": 1}, {"no": 2}]}), "field `id` - at `$.images[1]`)"),
        (json.dumps({"annotations": []}), "field `images`)"),
    ],
)
def test_what_is_wrong_is_told_of_the_whole_file(tmp_path, text, sentence):
    path = written(tmp_path, text)
    with pytest.raises(AugmentError) as caught:
        list(CocoFile(path).records("images", Image))
    assert str(path) in str(caught.value) and sentence in str(caught.value)
