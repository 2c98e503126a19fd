"""Ultralytics YOLO: data.yaml, images/SPLIT and labels/SPLIT, a line "class cx cy w h" a box, shares of the picture.

Crowds and ignored boxes are left out and counted, since YOLO knows none: a detector takes what lies there for
background. Boxes are cut to their pictures. Splits of other names than train, val and test are written, but not named
in data.yaml. Where the data set has no validation split, `val` names the originals of the training split, since the
tool does not start without one; its figures then say nothing about new pictures, which a note and data.yaml say.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import ClassVar

import yaml

from lib.datasets.export.final_set import Box, FinalSet, Picture
from lib.datasets.export.folder import Files

_NO_VAL = (
    "the data set has no validation split: val names the originals of the training split, so its figures say nothing "
    "about new pictures"
)


class Yolo:
    ABOUT: ClassVar[str] = "Ultralytics YOLO: data.yaml, images/SPLIT, labels/SPLIT"
    USE: ClassVar[str] = 'yolo detect train model=yolo11n.pt "data={folder}/data.yaml"'
    IGNORED: ClassVar[str] = "left out"
    KEEPS_IGNORED: ClassVar[bool] = False
    SPACES: ClassVar[bool] = True
    ROLES: ClassVar[dict[str, str]] = {}

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Pictures, labels and data.yaml."""
        for split, picture in data.pictures():
            files.copy(picture, f"images/{split}/{picture.name}")
            label = PurePosixPath(picture.name).with_suffix(".txt")
            files.write(f"labels/{split}/{label}", "".join(_line(box, picture) for box in picture.boxes))
        files.note_unread("YOLO", (".gif", ".dib", ".pgm", ".ppm"))
        places = {split: f"images/{split}" for split in ("train", "val", "test") if split in data.splits}
        comment = ""
        if "val" not in places and "train" in places:
            originals = (p.name for p in data.splits["train"] if not p.synthetic)
            files.write("val.txt", (f"./images/train/{name}\n".encode() for name in originals))
            places = {"train": places.pop("train"), "val": "val.txt", **places}
            files.notes.append(_NO_VAL)
            comment = f"# {_NO_VAL}\n"
        names = dict(enumerate(data.categories))
        text = yaml.safe_dump({**places, "names": names}, allow_unicode=True, sort_keys=False, width=10_000)
        files.write("data.yaml", comment + text)


def _line(box: Box, picture: Picture) -> str:
    x, y, w, h = box.inside
    wide, high = picture.width, picture.height
    values = (x + w / 2) / wide, (y + h / 2) / high, w / wide, h / high
    return f"{box.category} " + " ".join(f"{value:.9f}" for value in values) + "\n"  # 1e-5 pixels of 10,000
