"""CVAT for images 1.1: annotations.xml, and images/SPLIT; each image has its split as `subset`.

Every label has a checkbox `ignore`, which is true for crowds and ignored boxes. Boxes are cut to their pictures.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import ClassVar

from lib.datasets.export.final_set import Box, FinalSet
from lib.datasets.export.folder import Files
from lib.datasets.export.voc import element, number, xml_bytes


class Cvat:
    ABOUT: ClassVar[str] = "CVAT for images 1.1: annotations.xml, images/SPLIT"
    USE: ClassVar[str] = "a CVAT task of the pictures in {folder}/images, then Upload annotations: annotations.xml"
    IGNORED: ClassVar[str] = "attribute ignore"
    KEEPS_IGNORED: ClassVar[bool] = True
    SPACES: ClassVar[bool] = True
    ROLES: ClassVar[dict[str, str]] = {}

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Pictures, and one file for all of them."""
        for split, picture in data.pictures():
            files.copy(picture, f"images/{split}/{picture.name}")
        files.write("annotations.xml", _document(data))


def _document(data: FinalSet) -> Iterator[bytes]:
    """As `xml_bytes` would have it, a picture at a time."""
    root = element("annotations", version="1.1")
    root.append(_meta(data))
    begin, end = xml_bytes(root).rsplit(b"</", 1)
    yield begin
    for place, (split, picture) in enumerate(data.pictures()):
        known = {"id": str(place), "name": picture.name, "subset": split}
        size = {"width": str(picture.width), "height": str(picture.height)}
        image = ET.Element("image", known | size)
        image.extend(_box(box, data.categories) for box in picture.boxes)
        ET.indent(image, level=1)
        yield b"  " + ET.tostring(image, encoding="utf-8") + b"\n"
    yield b"</" + end


def _meta(data: FinalSet) -> ET.Element:
    labels = element("labels")
    for name in dict.fromkeys(data.categories):
        label = element("label", name=name, type="rectangle")
        attributes = ET.SubElement(label, "attributes")
        choice = {"mutable": "False", "input_type": "checkbox", "default_value": "false", "values": "false"}
        attributes.append(element("attribute", name="ignore", **choice))
        labels.append(label)
    task = element("task", size=sum(len(pictures) for pictures in data.splits.values()), mode="annotation")
    task.append(labels)
    meta = element("meta")
    meta.append(task)
    return meta


def _box(box: Box, categories: tuple[str, ...]) -> ET.Element:
    x, y, w, h = box.inside
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(number, (x, y, x + w, y + h)), strict=True))
    known = {"label": categories[box.category], "occluded": "0", "source": "file"}
    node = ET.Element("box", known | corners | {"z_order": "0"})
    ET.SubElement(node, "attribute", name="ignore").text = str(box.ignored).lower()
    return node
