"""From an ingested data set to what training keeps in memory.

pictures, unread = training_pictures(images, objects, Path("data/raw/scenes/images"), size=128)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.core.geometry import clip_xyxy, xywh_to_xyxy
from lib.core.images import PictureError, inside, load_rgb
from lib.core.words import article
from lib.datasets.formats.tables import text_of
from lib.records.rows import OK
from lib.training.texts import listing
from lib.training.windows import Things, TrainingPicture, shrunk


def training_pictures(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    root: Path,
    size: int,
    split: str = "train",
    detail: float = 2,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[list[TrainingPicture], dict[str, int]]:
    """Usable pictures of a split in the order of the data set, and how many were left out, by reason.

    images, objects: ImageRow and ObjectRow columns. detail: the shorter side, in multiples of `size`, to which larger
    pictures are shrunk; 0: they keep all their pixels. Captions and phrases come from the records' fields `caption` and
    `phrase`; without them a box's phrase is "a CATEGORY", a caption lists the phrases. Crowds are left out.
    """
    used = images[(images.status == OK) & (images.split == split)]
    of_picture = dict(list(objects[(objects.status == OK) & ~objects.crowd].groupby("image_key", sort=False)))
    rows = list(used.itertuples(index=False))
    left_out = images.reason[images.status != OK].value_counts().to_dict()
    other = int(((images.status == OK) & (images.split != split)).sum())
    left_out |= {"other_split": other} if other else {}
    pictures: list[TrainingPicture] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda row: _picture(row, of_picture.get(row.key), root, detail * size), rows):
            if isinstance(found, PictureError):
                left_out[found.reason] = left_out.get(found.reason, 0) + 1
            else:
                pictures.append(found)
            advance(1)
    return pictures, {str(reason): int(count) for reason, count in left_out.items()}


def content_digest(pictures: Sequence[TrainingPicture]) -> str:
    """SHA-256 over pixels, captions, boxes and phrases, in their order."""
    total = hashlib.sha256()
    for picture in pictures:
        labels = [picture.caption, picture.things.categories, picture.things.phrases, picture.things.boxes.tolist()]
        total.update(json.dumps([picture.pixels.shape, labels]).encode())
        total.update(picture.pixels.tobytes())
    return total.hexdigest()


def _picture(row: Any, objects: pd.DataFrame | None, root: Path, shorter: float) -> TrainingPicture | PictureError:
    path = inside(root, row.path)
    if path is None:
        return PictureError("path_outside_root", f"{row.path} leads out of the images folder")
    try:
        pixels = load_rgb(path, row.frame)
    except PictureError as error:
        return error
    things = Things(np.empty((0, 4)), (), ()) if objects is None else _things(objects, pixels.shape[1], pixels.shape[0])
    small, boxes = shrunk(pixels, things.boxes, shorter) if shorter else (pixels, things.boxes)
    things = Things(boxes, things.categories, things.phrases)
    return TrainingPicture(small, text_of(row.record, "caption") or listing(things), things)


def _things(objects: pd.DataFrame, width: int, height: int) -> Things:
    boxes = clip_xyxy(xywh_to_xyxy(objects[["x", "y", "w", "h"]].to_numpy(float)), width, height)
    names = tuple(objects.category)
    given = (text_of(record, "phrase") for record in objects.record)
    phrases = tuple(phrase or f"{article(name)} {name}" for phrase, name in zip(given, names, strict=True))
    return Things(boxes, names, phrases)
