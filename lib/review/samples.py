"""The pictures of a final set with all that is known of them, for tools that show and query data sets.

for picture in final_samples(Path("data/runs/demo")):
    picture["file"], picture["source"], picture["decision"], picture["boxes"][0]["verdict"]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lib.core.errors import AugmentError
from lib.core.images import inside
from lib.records.kept import FAULTS
from lib.review.catalogue import Box, Item, load_run


class _Image(msgspec.Struct):
    id: Any
    file_name: str
    width: int
    height: int
    source_file_name: str = ""


class _Annotation(msgspec.Struct):
    image_id: Any
    category_id: Any
    bbox: list[float]
    painted: bool = False
    ignored: str = ""


class _Category(msgspec.Struct):
    id: Any
    name: str


class _Set(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def final_samples(root: Path | str) -> Iterator[dict[str, Any]]:
    """A picture each: file, source ("" of an original), decision, by, note, boxes with label, bounding_box (left, top,
    width, height as shares of the picture), painted, ignored, verdict and score.

    Raises AugmentError where the workspace has no final set, or one that cannot be read.
    """
    root = Path(root)
    path = root / "final" / "annotations.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Set)
    except (OSError, *FAULTS) as error:
        raise AugmentError(f"{path} cannot be read ({error}): run to the end first, which writes it") from None
    run = load_run(root)
    shown = {Path(item.name).stem: item for item in run.items.values()}
    names = {category.id: category.name for category in found.categories}
    by_image: dict[Any, list[_Annotation]] = {}
    for annotation in found.annotations:
        by_image.setdefault(annotation.image_id, []).append(annotation)
    for image in found.images:
        item = shown.get(Path(image.file_name).stem) if image.source_file_name else None
        state = run.log.of(item.key, item.sha256) if item else None
        known = {_place(box.category, box.xywh): box for box in item.boxes} if item else {}
        yield {
            "file": str(inside(path.parent / "images", image.file_name) or ""),
            "source": image.source_file_name,
            "decision": state.status or "" if state else "",
            "by": state.by if state else "",
            "note": state.note if state else "",
            "boxes": [
                _box(image, one, names.get(one.category_id, ""), known, item) for one in by_image.get(image.id, ())
            ],
        }


def _place(category: str, xywh: Any) -> tuple[str, tuple[float, ...]]:
    return category, tuple(round(float(value), 2) for value in xywh)


def _box(image: _Image, one: _Annotation, label: str, known: dict[Any, Box], item: Item | None) -> dict[str, Any]:
    x, y, w, h = one.bbox
    box = known.get(_place(label, one.bbox))
    moved = "by a person" if item is not None and box is None else ""
    return {
        "label": label,
        "bounding_box": [x / image.width, y / image.height, w / image.width, h / image.height],
        "painted": one.painted,
        "ignored": one.ignored,
        "verdict": box.said if box else moved,
        "score": box.score if box else None,
    }
