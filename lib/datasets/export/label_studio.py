"""Label Studio: tasks.json, whose pictures are files on the server's disk, config.xml for the labels, images/SPLIT.

A task's picture is "/data/local-files/?d=images/SPLIT/NAME": the server is started with
LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=FOLDER, and the project has a
local storage there. Crowds and ignored boxes stay, with the text "ignored" as meta. Boxes are cut to their pictures,
in percent of them, as Label Studio has them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import chain
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from lib.datasets.export.final_set import Box, FinalSet, Picture
from lib.datasets.export.folder import Files, joined
from lib.datasets.export.voc import xml_bytes


class LabelStudio:
    ABOUT: ClassVar[str] = "Label Studio: tasks.json, config.xml, images/SPLIT"
    USE: ClassVar[str] = (
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={folder} label-studio, "
        "with a local storage of {folder}/images, config.xml as labeling interface, then import of tasks.json"
    )
    IGNORED: ClassVar[str] = "meta text"
    KEEPS_IGNORED: ClassVar[bool] = True
    SPACES: ClassVar[bool] = True
    ROLES: ClassVar[dict[str, str]] = {}

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Pictures, tasks and the labeling interface."""
        for split, picture in data.pictures():
            files.copy(picture, _place(split, picture))
        tasks = (msgspec.json.encode(_task(split, picture, data.categories)) for split, picture in data.pictures())
        files.write("tasks.json", chain([b"[\n"], joined(b",\n", tasks), [b"\n]\n"]))
        files.write("config.xml", xml_bytes(_config(data.categories)))


def _place(split: str, picture: Picture) -> str:
    return f"images/{split}/{picture.name}"


def _task(split: str, picture: Picture, categories: tuple[str, ...]) -> dict[str, Any]:
    facts = {"image_id": picture.id, "split": split, "synthetic": picture.synthetic}
    return {
        "data": {"image": f"/data/local-files/?d={quote(_place(split, picture))}", **facts},
        "annotations": [{"result": [_result(box, picture, categories) for box in picture.boxes]}],
    }


def _result(box: Box, picture: Picture, categories: tuple[str, ...]) -> dict[str, Any]:
    x, y, w, h = box.inside
    sides = (picture.width, picture.height) * 2
    percent = {k: 100 * v / s for k, v, s in zip(("x", "y", "width", "height"), (x, y, w, h), sides, strict=True)}
    return {
        "id": f"box-{box.id}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": picture.width,
        "original_height": picture.height,
        "image_rotation": 0,
        "value": {**percent, "rotation": 0, "rectanglelabels": [categories[box.category]]},
        **({"meta": {"text": ["ignored"]}} if box.ignored else {}),
    }


def _config(categories: tuple[str, ...]) -> ET.Element:
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    labels = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in dict.fromkeys(categories):
        ET.SubElement(labels, "Label", value=name)
    return view
