"""Pascal VOC: Annotations/NAME.xml, JPEGImages/NAME.*, ImageSets/Main/SPLIT.txt, labelmap.txt.

Crowds and ignored boxes have `difficult` 1, which evaluations skip; most trainers do too. Corners are those of COCO's
boxes (xmax = x + w), whole numbers where they are whole and decimals where they are not: tools that read whole numbers
alone round them. Boxes are cut to their pictures. A blank in a file name becomes "_": the lists separate words by it.
labelmap.txt lists the categories, as CVAT and Datumaro want it where they are not VOC's own.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from typing import Any, ClassVar

from lib.core.images import picture_kind
from lib.datasets.export.final_set import FinalSet, Picture
from lib.datasets.export.folder import Files


class Voc:
    ABOUT: ClassVar[str] = "Pascal VOC: Annotations/*.xml, JPEGImages, ImageSets/Main"
    USE: ClassVar[str] = "VOC layout: Annotations, JPEGImages and ImageSets/Main/train.txt in {folder}"
    IGNORED: ClassVar[str] = "difficult"
    KEEPS_IGNORED: ClassVar[bool] = True
    SPACES: ClassVar[bool] = False
    ROLES: ClassVar[dict[str, str]] = {}

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Pictures, an XML file each, and lists of them."""
        for _, picture in data.pictures():
            files.copy(picture, f"JPEGImages/{picture.name}")
            files.write(f"Annotations/{_stem(picture)}.xml", xml_bytes(_annotation(picture, data.categories)))
        for split, pictures in data.splits.items():
            files.write(f"ImageSets/Main/{split}.txt", (f"{_stem(picture)}\n".encode() for picture in pictures))
        labels = "".join(f"{name}:::\n" for name in dict.fromkeys(data.categories))
        files.write("labelmap.txt", f"# label:color_rgb:parts:actions\n{labels}")


def _stem(picture: Picture) -> str:
    return str(PurePosixPath(picture.name).with_suffix(""))


def _annotation(picture: Picture, categories: tuple[str, ...]) -> ET.Element:
    root = element("annotation", folder="JPEGImages", filename=picture.name)
    channels, _ = picture_kind(picture.file)
    root.append(element("size", width=picture.width, height=picture.height, depth=channels))
    root.append(element("segmented", 0))
    for box in picture.boxes:
        x, y, w, h = box.inside
        difficult = box.ignored or box.field("difficult") in (1, True)
        fields = {"name": categories[box.category], "pose": box.field("pose") or "Unspecified"}
        marks = {"truncated": int(box.field("truncated") in (1, True)), "difficult": int(difficult)}
        node = element("object", **fields, **marks)
        node.append(element("bndbox", xmin=x, ymin=y, xmax=x + w, ymax=y + h))
        root.append(node)
    return root


def element(tag: str, content: Any = None, **children: Any) -> ET.Element:
    """An element with text, or with children that have text."""
    node = ET.Element(tag)
    node.text = None if content is None else _text(content)
    for name, value in children.items():
        node.append(element(name, value))
    return node


def xml_bytes(root: ET.Element) -> bytes:
    """An indented document."""
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def number(value: float) -> str:
    """A number of pixels to 1e-4, without zeros at its end."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else _NOT_XML.sub(" ", str(value))


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML cannot hold
