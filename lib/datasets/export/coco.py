"""COCO: images/SPLIT and annotations/instances_SPLIT.json, the records of the final set with all their fields.

Crowds and ignored boxes stay, with `iscrowd: 1` also where the record has `ignore` alone: trainers know no other mark.
Boxes stay as they are, also where they reach beyond their pictures. Annotations without a category, or whose box is
none, are left out, since trainers trip over them; for the same reason those without `area`, `iscrowd` or `segmentation`
get the box's area, 0 and an empty list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import msgspec

from lib.datasets.export.final_set import Box, FinalSet, Picture, Pictures
from lib.datasets.export.folder import Files


class Coco:
    ABOUT: ClassVar[str] = "COCO: images/SPLIT, annotations/instances_SPLIT.json"
    USE: ClassVar[str] = (
        'torchvision.datasets.CocoDetection("{folder}/images/train", "{folder}/annotations/instances_train.json")'
    )
    IGNORED: ClassVar[str] = "iscrowd 1"
    KEEPS_IGNORED: ClassVar[bool] = True
    SPACES: ClassVar[bool] = True
    ROLES: ClassVar[dict[str, str]] = {}

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Pictures, and a file of annotations a split."""
        for split, pictures in data.splits.items():
            for picture in pictures:
                files.copy(picture, f"images/{split}/{picture.name}")
            files.write(f"annotations/instances_{split}.json", coco_pieces(data, pictures))


def coco_pieces(data: FinalSet, pictures: Pictures) -> Iterator[bytes]:
    """A COCO file of these pictures; file names are those of the export."""
    lists = {
        "images": (msgspec.json.encode(_record(picture)) for picture in pictures),
        "annotations": (_annotation(box, picture) for picture in pictures for box in picture.boxes),
    }
    yield b"{\n"
    for place, name in enumerate({**data.envelope, **lists}):
        yield (b",\n" if place else b"") + msgspec.json.encode(name) + b": "
        if name in lists:
            yield from _list(lists[name])
        else:
            yield bytes(data.envelope[name])
    yield b"\n}\n"


def _record(picture: Picture) -> dict[str, object]:
    size = {"width": picture.width, "height": picture.height}  # tools need them, a source may have had none
    return {**picture.record, "file_name": picture.name, **size}


def _annotation(box: Box, picture: Picture) -> bytes:
    """The record, with the fields that evaluations need."""
    fields = msgspec.json.decode(box.record, type=dict[str, msgspec.Raw])
    defaults: dict[str, object] = {"area": box.xywh[2] * box.xywh[3], "iscrowd": int(box.ignored), "segmentation": []}
    changes = {name: value for name, value in defaults.items() if name not in fields}
    if box.ignored and not box.field("iscrowd"):  # `ignore: 1` alone
        changes["iscrowd"] = 1
    if fields["image_id"] != picture.record["id"]:  # written otherwise, or of another record of the same file
        changes["image_id"] = picture.record["id"]
    return msgspec.json.encode({**fields, **changes}) if changes else bytes(box.record)


def _list(records: Iterable[bytes]) -> Iterator[bytes]:
    begin = b"[\n"
    for record in records:
        yield begin + record
        begin = b",\n"
    yield b"[]" if begin == b"[\n" else b"\n]"
