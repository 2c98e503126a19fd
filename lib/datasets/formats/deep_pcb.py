"""DeepPCB: pairs of a defective circuit board and its clean template, a text file of boxes for each pair.

    dataset: {images: PCBData, format: deep-pcb}           # both pictures of a pair, the clean one without boxes
    dataset: {images: PCBData, format: deep-pcb-layout}    # the clean ones, each with its partner's boxes as a layout

group12000/12000/12000001_test.jpg is defective, 12000001_temp.jpg clean, group12000/12000_not/12000001.txt has lines of
"x1 y1 x2 y2 class" (https://github.com/tangsanli5201/DeepPCB). Each pair becomes COCO records.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lib.core.bucket_sets import Beside
from lib.core.errors import AugmentError
from lib.core.files import files_below, is_hidden
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import (
    images_folder,
    label_lines,
    misnamed,
    picture_size,
    rejected_image,
    rejected_object,
    shown,
    stable_id,
    whole,
    with_rejected,
)
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

CATEGORIES = {1: "open", 2: "short", 3: "mousebite", 4: "spur", 5: "copper", 6: "pin-hole"}
TEST_GROUPS = ("50600", "77000", "92000")  # boards repeat within a group, so a group is on one side as a whole

DEFECTIVE, CLEAN = "_test.jpg", "_temp.jpg"


@dataclass(frozen=True, slots=True)
class _Pair:
    stem: str  # of both pictures under the images folder, posix: group12000/12000/12000001
    group: str  # 12000
    label: Path  # may not exist


def read(settings: DatasetSettings) -> Dataset:
    """Read defective pictures with their boxes, and clean ones as pictures without boxes. Raises AugmentError.

    dataset.images is PCBData, a group or a group's folder of pictures; labels lie beside the pictures' folders, or in
    a like tree under dataset.annotations. A box is x1, y1, x2 - x1, y2 - y1; category ids are the classes. Ids are
    hashes of names. Each record has its board's `group`, so that `dataset.group: group` keeps boards together, and its
    `split`, the default: TEST_GROUPS are "test", the others "train" (the lists that come with the data set mix boards,
    so they are not used).

    A bad line is a rejected object, a clean picture that lost its partner one without boxes, a defective one without
    a label file a rejected picture, label_missing: it is not clean.
    """
    return _read(settings, layout=False)


def read_layout(settings: DatasetSettings) -> Dataset:
    """Read clean pictures alone, each with the boxes of its defective partner: a layout to paint. Else as `read`."""
    return _read(settings, layout=True)


def _read(settings: DatasetSettings, layout: bool) -> Dataset:
    root = images_folder(settings)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    unlabelled, rejected = list[ImageRow](), list[ObjectRow]()
    for pair in _pairs(root, settings.annotations):
        labelled = os.path.lexists(pair.label)
        boxed = pair.stem + (CLEAN if layout else DEFECTIVE)
        if shown(pair.stem) != pair.stem:
            unlabelled.append(misnamed(boxed))
            continue
        for name in dict.fromkeys((boxed, pair.stem + CLEAN)):
            if labelled and name == boxed:  # or else it is missing, which the picture check reports
                images.append(_image(root, name, pair.group))
                good, bad = _objects(pair.label, images[-1])
                annotations += good
                rejected += bad
            elif (root / name).exists() and name.endswith(CLEAN):
                images.append(_image(root, name, pair.group))
            elif (root / name).exists():
                unlabelled.append(_unlabelled(_image(root, name, pair.group), pair.label))
    categories = [{"id": id, "name": name, "supercategory": "defect"} for id, name in CATEGORIES.items()]
    document = msgspec.json.encode({"images": images, "annotations": annotations, "categories": categories})
    if settings.split is None:
        settings = settings.model_copy(update={"split": "official"})
    return with_rejected(read_document(document, str(root), settings), unlabelled, rejected)


# --- files -------------------------------------------------------------------------------------------------------


def _pairs(root: Path, annotations: Path | None) -> list[_Pair]:
    """Every stem that has a picture or a label, sorted; raises AugmentError where no labels exist."""
    stems: dict[Path, set[str]] = defaultdict(set)
    for picture in files_below(root, ".jpg"):
        for suffix in (DEFECTIVE, CLEAN):
            if picture.name.endswith(suffix):
                stems[picture.parent.relative_to(root)].add(picture.name.removesuffix(suffix))
    pairs = []
    for folder in sorted(stems):
        labels = _labels_folder((annotations or root).absolute() / folder)
        group = (root.absolute() / folder).name
        listed = {path.stem for path in labels.glob("*.txt") if not is_hidden(Path(path.name))}
        names = sorted(stems[folder] | listed)
        pairs += [_Pair((folder / stem).as_posix(), group, labels / f"{stem}.txt") for stem in names]
    if not any(pair.label.is_file() for pair in pairs):
        raise AugmentError(
            f"no pictures name_test.jpg or name_temp.jpg in {root} that have a text file in a folder NNN_not beside "
            "theirs: set dataset.images to PCBData, and dataset.annotations where the labels lie in another tree"
        )
    return pairs


def beside(settings: DatasetSettings) -> Iterator[Beside]:
    """The neighbour of the folder itself; those of folders in it are in it as well."""
    yield Beside(_neighbour(settings.annotations or settings.images))


def _labels_folder(pictures: Path) -> Path:
    """12000_not beside the folder 12000, or the folder itself where it has no such neighbour."""
    neighbour = _neighbour(pictures)
    return neighbour if neighbour.is_dir() else pictures


def _neighbour(pictures: Path) -> Path:
    pictures = pictures.absolute()  # "." has no name
    return pictures.with_name(f"{pictures.name}_not")


# --- records -----------------------------------------------------------------------------------------------------


def _image(root: Path, name: str, group: str) -> dict[str, Any]:
    width, height = picture_size(root, name)
    split = "test" if group in TEST_GROUPS else "train"
    size = {"width": width, "height": height}
    return {"id": stable_id(name), "file_name": name} | size | {"group": group, "split": split}


def _objects(label: Path, image: dict[str, Any]) -> tuple[list[dict[str, Any]], list[ObjectRow]]:
    """Records of a file's lines, and rows of those that cannot be records; blank ones are skipped.

    A file of other bytes gives lines that are rejected one by one.
    """
    records, rejected = list[dict[str, Any]](), list[ObjectRow]()
    try:
        lines = label_lines(label)
    except (ValueError, AugmentError) as error:  # the latter of a file that cannot be read
        return [], [_rejected(image, 0, "", str(error))]
    for number, line in lines:
        try:
            ids = {"id": stable_id(image["file_name"], number), "image_id": image["id"]}
            records.append(ids | _annotation(line))
        except ValueError as error:
            rejected.append(_rejected(image, number, line, f"{label.name}:{number}: {error}"))
    return records, rejected


def _rejected(image: dict[str, Any], number: int, line: str, detail: str) -> ObjectRow:
    ids = {"id": stable_id(image["file_name"], number), "image_id": image["id"]}
    data = msgspec.json.encode(ids | {"line": line})
    return rejected_object(str(ids["id"]), "record_malformed", detail, str(image["id"]), data)


def _annotation(line: str) -> dict[str, Any]:
    """The COCO fields of a line; raises ValueError where it is not five whole numbers, between spaces or commas."""
    texts = line.replace(",", " ").split()
    try:
        x1, y1, x2, y2, category = map(whole, texts)
    except ValueError:
        raise ValueError(f"expected x1 y1 x2 y2 class, whole numbers; got {line[:80]!r}") from None
    w, h = x2 - x1, y2 - y1
    return {"category_id": category, "bbox": [x1, y1, w, h], "area": w * h, "iscrowd": 0, "segmentation": []}


def _unlabelled(image: dict[str, Any], label: Path) -> ImageRow:
    detail = f"{label.parent.name}/{label.name} not found: its defects are not known"
    record = msgspec.json.encode(image)
    return rejected_image(str(image["id"]), "label_missing", detail, image["file_name"], record)
