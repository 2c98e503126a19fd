"""Hugging Face: an imagefolder, SPLIT/metadata.jsonl beside the pictures of train, validation and test.

A line has `file_name`, `image_id`, `synthetic`, `source` (the file that a synthetic picture was made from; the library
would load what is called `..._file_name`) and `objects`, lists of one length each: id, bbox (x, y, width, height in
pixels), categories (numbers), names, ignored (crowds and ignored boxes, which stay). Ids are texts. Boxes are cut to
their pictures. The card README.md names the splits, so that the hub finds them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from lib.datasets.export.final_set import FinalSet, Picture
from lib.datasets.export.folder import Files


class HuggingFace:
    ABOUT: ClassVar[str] = "Hugging Face imagefolder: SPLIT/metadata.jsonl beside the pictures, README.md"
    USE: ClassVar[str] = 'datasets.load_dataset("imagefolder", data_dir="{folder}")'
    IGNORED: ClassVar[str] = "ignored true"
    KEEPS_IGNORED: ClassVar[bool] = True
    SPACES: ClassVar[bool] = True
    ROLES: ClassVar[dict[str, str]] = {"val": "validation"}

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Pictures and their lines."""
        for split, pictures in data.splits.items():
            for picture in pictures:
                files.copy(picture, f"{split}/{picture.name}")
            lines = (msgspec.json.encode(_line(picture, data.categories)) + b"\n" for picture in pictures)
            files.write(f"{split}/metadata.jsonl", lines)
        files.note_unread("imagefolder", (".avif", ".mpo"))


def _line(picture: Picture, categories: tuple[str, ...]) -> dict[str, Any]:
    return {
        "file_name": picture.name,
        "image_id": picture.id,
        "synthetic": picture.synthetic,
        "source": picture.source or "",
        "objects": {
            "id": [box.id for box in picture.boxes],
            "bbox": [[float(value) for value in box.inside] for box in picture.boxes],
            "categories": [box.category for box in picture.boxes],
            "names": [categories[box.category] for box in picture.boxes],
            "ignored": [box.ignored for box in picture.boxes],
        },
    }
