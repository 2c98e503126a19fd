"""Triples: a picture name.jpg, its mask name.mask.png and its prompt name.txt, as sets for inpainting come.

White in a mask is kept, black is to be painted; in a mask of one colour what is opaque is kept, what is transparent is
to be painted. A mask becomes an annotation of the category "masked", what is to be painted as COCO's run lengths; a
prompt becomes the field `caption` of its picture's record, where the captioner `given` finds it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lib.core.errors import AugmentError
from lib.core.files import files_below
from lib.core.images import SUFFIXES, PictureError, header_size, load_alpha, load_rgb
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import (
    images_folder,
    misnamed,
    picture_size,
    read_text,
    rejected_image,
    rejected_object,
    shown,
    stable_id,
    with_rejected,
)
from lib.records.rle import encode_rle
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

WHITE = 127  # a mask's pixel above this grey is kept
UNSURE = (64, 191)  # greys that a mask has along soft edges only
MOST_UNSURE = 0.05  # share of a mask's pixels that may be so

_CATEGORY = {"id": 1, "name": "masked", "supercategory": ""}
_MASK_REASONS = {"image_missing": "mask_missing", "image_empty": "mask_broken", "image_broken": "mask_broken"}

_Records = tuple[dict[str, Any], list[dict[str, Any]], list[ObjectRow]]  # a picture's, its annotations, rejected ones


@dataclass(frozen=True, slots=True)
class _Item:
    picture: str  # name under the images folder, posix
    masks: list[Path]  # the one that counts first
    texts: list[Path]


def read(settings: DatasetSettings) -> Dataset:
    """Read a folder of pictures with their masks and prompts. Raises AugmentError where no picture has a mask.

    Masks and prompts lie beside the pictures or, named alike, in the folder dataset.annotations; subfolders count. Ids
    are hashes of the pictures' names, stable under additions; the category's is 1.

    No file is lost. A picture whose mask cannot be used stays, and its mask is a rejected object: mask_missing,
    mask_broken, mask_size (other than its picture's, upright), mask_not_binary (many greys, or no white), mask_empty
    (nothing to paint), mask_duplicate (a second one; a PNG comes first), image_too_large (more than max_pixels). So is
    a prompt that is not UTF-8, record_malformed. A mask or prompt without a picture is a rejected picture,
    image_missing, under its own name. Pictures that differ in their suffix alone share mask and prompt.
    """
    root = images_folder(settings)
    folder = settings.annotations or root
    if not folder.is_dir():
        raise AugmentError(f"annotations {folder} is not a folder: set dataset.annotations to the folder of the masks")
    items, lost = _find(root, folder)
    if not any(item.masks for item in items):
        raise AugmentError(
            f"no picture name.jpg in {root} has a mask name.mask.png or name.mask.jpg in {folder}: "
            "set dataset.images and dataset.annotations to the folders of the pictures and of the masks"
        )
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding lets go of the interpreter
        parts = list(pool.map(lambda item: _records(item, root, settings.max_pixels), items))
    document = {
        "images": [image for image, _, _ in parts],
        "annotations": [record for _, records, _ in parts for record in records],
        "categories": [_CATEGORY],
    }
    dataset = read_document(msgspec.json.encode(document), str(root), settings)
    return with_rejected(dataset, [_lost(name) for name in lost], [row for _, _, rows in parts for row in rows])


# --- files -------------------------------------------------------------------------------------------------------


def _find(root: Path, folder: Path) -> tuple[list[_Item], list[str]]:
    """The pictures under root with what belongs to them under folder, and the names of files that stay alone."""
    here = _by_role(root)
    beside = here if folder == root else _by_role(folder)
    pictures = {name: stem for name, stem in here["picture"].items() if shown(name) == name}
    stems = set(pictures.values())
    alone = [name for name in here["picture"] if name not in pictures]
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for role in ("mask", "text"):
        for name, stem in beside[role].items():
            found[role, stem].append(folder / name)
            if stem not in stems:
                alone.append(name)
    items = [_Item(name, _best_first(found["mask", stem]), found["text", stem]) for name, stem in pictures.items()]
    return items, alone


def _by_role(folder: Path) -> dict[str, dict[str, str]]:
    """Role to the names that have it, sorted, each with the part that a picture, its mask and its prompt share."""
    roles: dict[str, dict[str, str]] = {"picture": {}, "mask": {}, "text": {}}
    for name in sorted(path.relative_to(folder).as_posix() for path in files_below(folder, ".txt", *SUFFIXES)):
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() == "txt":
            roles["text"][name] = stem
        else:
            masked = stem.lower().endswith(".mask")
            roles["mask" if masked else "picture"][name] = stem[: -len(".mask")] if masked else stem
    return roles


def _best_first(masks: list[Path]) -> list[Path]:
    """PNG before what may have noise."""
    return sorted(masks, key=lambda path: path.suffix.lower() != ".png")


def _lost(name: str) -> ImageRow:
    """A mask or prompt without a picture, or a picture whose name cannot stand in a record."""
    if shown(name) != name:
        return misnamed(name)
    key = stable_id(name)
    record = msgspec.json.encode({"id": key, "file_name": name, "width": 0, "height": 0})
    return rejected_image(str(key), "image_missing", f"{name} belongs to no picture", name, record)


# --- records -----------------------------------------------------------------------------------------------------


def _records(item: _Item, root: Path, max_pixels: int) -> _Records:
    width, height = picture_size(root, item.picture)
    image = {"id": stable_id(item.picture), "file_name": item.picture, "width": width, "height": height}
    ids = {"id": stable_id(item.picture, "mask"), "image_id": image["id"]}
    annotations, rejected = list[dict[str, Any]](), list[ObjectRow]()
    for text in item.texts[-1:]:
        try:
            image |= {"caption": prompt} if (prompt := read_text(text).strip()) else {}
        except AugmentError as error:
            rejected.append(_rejected(ids | {"id": stable_id(item.picture, text.name)}, "record_malformed", str(error)))
    try:
        annotations.append(ids | _annotation(_to_paint(item, (height, width), max_pixels)))
    except PictureError as error:
        rejected.append(_rejected(ids, error.reason, error.detail))
    for mask in item.masks[1:]:
        duplicate = ids | {"id": stable_id(item.picture, mask.name)}
        rejected.append(_rejected(duplicate, "mask_duplicate", f"{mask.name}: {item.masks[0].name} is used"))
    return image, annotations, rejected


def _rejected(ids: dict[str, Any], reason: str, detail: str) -> ObjectRow:
    return rejected_object(str(ids["id"]), reason, detail, str(ids["image_id"]), msgspec.json.encode(ids))


def _to_paint(item: _Item, shape: tuple[int, int], max_pixels: int) -> np.ndarray:
    """bool (height, width) = shape, the picture's: True where its mask is not white, at least somewhere.

    Raises PictureError with the reason where no such mask can be read.
    """
    if not all(shape):
        raise PictureError("image_rejected", "the picture cannot be read, so its mask fits nothing")
    if not item.masks:
        raise PictureError("mask_missing", f"{item.picture} has no mask, no file of its name ending in .mask.png or so")
    name, grey = item.masks[0].name, _grey(item.masks[0], max_pixels)
    if grey.shape != shape:
        raise PictureError(
            "mask_size", f"{name} has {grey.shape[1]}×{grey.shape[0]} pixels, its picture {shape[1]}×{shape[0]}"
        )
    unsure = float(((grey >= UNSURE[0]) & (grey <= UNSURE[1])).mean())
    if unsure > MOST_UNSURE:
        raise PictureError("mask_not_binary", f"{unsure:.0%} of {name} is neither black nor white: a photograph?")
    paint: np.ndarray = grey <= WHITE
    if not paint.any():
        raise PictureError("mask_empty", f"{name} is all white: nothing is to be painted")
    if paint.all() and grey.min() < grey.max():
        # Not "paint everything": such masks hold 0 and 1, or the numbers of classes.
        raise PictureError("mask_not_binary", f"{name} has no white (255): its brightest pixel is {grey.max()}")
    return paint


def _grey(mask: Path, max_pixels: int) -> np.ndarray:
    """uint8 (H, W), upright. Raises PictureError with a mask's reason."""
    import cv2

    try:
        width, height = header_size(mask)
        if width * height > max_pixels:
            raise PictureError("image_too_large", f"{width}×{height} pixels, the limit is {max_pixels}")
        grey, alpha = np.asarray(cv2.cvtColor(load_rgb(mask), cv2.COLOR_RGB2GRAY)), load_alpha(mask)
    except PictureError as error:
        reason = _MASK_REASONS.get(error.reason, error.reason)
        raise PictureError(reason, f"{mask.name}: {error.detail}") from None
    if alpha is None:
        return grey
    if grey.min() == grey.max():
        return alpha
    if float(((grey <= WHITE) != (alpha <= WHITE)).mean()) > MOST_UNSURE:
        raise PictureError("mask_not_binary", f"{mask.name}: its colours show another mask than its transparency")
    return grey


def _annotation(paint: np.ndarray) -> dict[str, Any]:
    """The COCO fields of a mask, bool (H, W), that is not empty."""
    rows, columns = np.flatnonzero(paint.any(axis=1)), np.flatnonzero(paint.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "category_id": _CATEGORY["id"],
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(paint.sum()),
        "iscrowd": 0,
        "segmentation": encode_rle(paint).model_dump(),
    }
