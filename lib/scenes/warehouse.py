"""Warehouse scenes drawn by program: pictures whose boxes are exact, of any size, for the demo set and the mini models.

    scene = render(seed=3, width=480, height=360)       # scene.image, scene.objects, scene.caption
    python -m lib.scenes data/demo --count 24 --seed 7 --size 256 256

A scene is a small 3-D world in metres, drawn into a depth buffer at four times the resolution (solids.py).
The buffer knows who owns each cell, which gives visible boxes, fractions and outlines. What is labelled is built in
things.py, the room around it in room.py.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib.core.files import atomic_write
from lib.scenes.room import LIGHTS, Room, furnish, paint_room, shadow_map
from lib.scenes.solids import SUPERSAMPLE, Array, Camera, Canvas, corners_of, turned
from lib.scenes.things import BUILDERS, Dice, Thing

CATEGORIES = tuple(BUILDERS)  # COCO ids 1, 2, ...


@dataclass(frozen=True)
class SceneObject:
    """One labelled object as it appears in the picture."""

    category: str  # of CATEGORIES
    phrase: str  # "a yellow forklift"
    bbox_xywh: tuple[float, float, float, float]  # tight around the visible cells; pixels, multiples of 1/4
    visible: float  # visible part of what would be visible with nothing in front, 0 < visible <= 1
    area: float  # pixels², of the visible cells
    polygons: tuple[tuple[float, ...], ...]  # outlines of the visible parts: x, y, x, y, ... pixels; holes are not cut


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    objects: tuple[SceneObject, ...]  # far to near
    caption: str
    owners: NDArray[np.uint8]  # (4H, 4W): 1 + index of the visible object, 0 = background


def render(seed: int, width: int = 640, height: int = 480) -> Scene:
    """Draw scene `seed` at width × height pixels (both at least 32). Equal arguments give equal scenes.

    The layout depends on the frame's shape too, since every object must fit into it. Raises ValueError for a smaller
    frame.
    """
    if min(width, height) < 32:
        raise ValueError(f"a scene of {width}x{height} pixels: at least 32x32 is needed for objects to be seen")
    dice = Dice(f"scene {seed}")
    # Between a view as wide and one as high as usual, but never so long that only a strip of the room is visible.
    focal = 1.1 * min((width + height * 4 / 3) / 2, 1.8 * height)
    camera = Camera(width, height, focal, height * dice.between(0.30, 0.40), dice.between(1.7, 2.5))
    room = furnish(dice)
    things = _lay_out(dice, camera)
    canvas = Canvas(camera, room.light)
    canvas.pixels[:] = paint_room(dice, camera, room)
    canvas.draw(room.markings)
    shadow = cv2.merge([shadow_map(camera, room, things)] * 3)
    cv2.multiply(canvas.pixels, shadow, dst=canvas.pixels, scale=1 / 255)
    canvas.draw(room.solids)
    alone = [canvas.draw_object(index, thing.solids) for index, thing in enumerate(things, start=1)]
    visible = [_visible(canvas.owners, i, *pair) for i, pair in enumerate(zip(things, alone, strict=True), start=1)]
    return Scene(_develop(dice, canvas.pixels, camera, room), tuple(visible), _caption(room, things), canvas.owners)


# ---------------------------------------------------------------------------------------------------------------------
# Layout

_NEAR_FAR = {"forklift": (5.6, 8.6), "pallet": (4.0, 7.5), "boxes": (4.2, 8.0), "pallet truck": (3.8, 6.8)}  # metres
_SPREAD = {"forklift": 0.75, "pallet truck": 0.8, "pallet": 0.6, "boxes": 0.6}  # radians off the side view
_MARGIN = 0.012  # of the frame's width, left free at its border: every object is whole
_MIN_SIDE = 0.085  # of the frame's height: large enough to be judged by eye
_MAX_COVER = 0.35  # of one object's box by another's


def _lay_out(dice: Dice, camera: Camera) -> list[Thing]:
    """One to five things that fit into the frame, stand apart and hide little of each other; far to near."""
    wanted, things = dice.pick([1, 2, 3, 3, 4, 4, 5, 5]), list[Thing]()
    for _ in range(6 * wanted):
        # The largest first and what is missing likelier, or piles of boxes would take the forklift's room.
        missing = [name for name in CATEGORIES if all(t.category != name for t in things)]
        names = (
            [*missing, *missing, "pallet", "boxes"] if things else ["forklift", "forklift", "pallet truck", *CATEGORIES]
        )
        found = BUILDERS[dice.pick(names)](dice)
        if len(things) + 1 + (found.load is not None) <= wanted:
            things += _find_place(dice, camera, found, things)
    return sorted(things or [_fallback(dice, camera)], key=lambda thing: -thing.at[1])


def _find_place(dice: Dice, camera: Camera, thing: Thing, others: Sequence[Thing]) -> list[Thing]:
    """The thing (and its load) where it fits; empty where a few draws found no such place."""
    group = [thing, thing.load] if thing.load else [thing]
    corners = [corners_of(t.solids) for t in group]
    taken = [(other, camera.bounds(corners_of(other.solids))) for other in others]
    for _ in range(12):
        z = dice.between(*_NEAR_FAR[thing.category])
        x = dice.between(-0.46, 0.46) * camera.width / camera.focal * z
        turn = dice.pick([0.0, math.pi]) + dice.between(-1, 1) * _SPREAD[thing.category]  # to the right or to the left
        near = any(math.dist((x, z), other.at) < thing.reach + other.reach for other in others)
        boxes = [camera.bounds(turned(points, x, 0, z, turn)) for points in corners]
        if not near and all(_whole(camera, b) and all(_apart(b, other) for _, other in taken) for b in boxes):
            found = thing.stand(x, z, turn)
            return [found, found.load] if found.load else [found]
    return []


def _fallback(dice: Dice, camera: Camera) -> Thing:
    """Boxes in the middle, far enough to fit: for frames so narrow that nothing else did."""
    boxes, z = BUILDERS["boxes"](dice), 5.0
    while not _whole(camera, camera.bounds(corners_of(boxes.stand(0, z, 0.3).solids))) and z < 11:
        z += 0.5
    return boxes.stand(0, z, 0.3)


def _whole(camera: Camera, box_xyxy: Array) -> bool:
    x0, y0, x1, y1 = box_xyxy
    margin = _MARGIN * camera.width
    inside = x0 >= margin and y0 >= margin and x1 <= camera.width - margin and y1 <= camera.height - margin
    return bool(inside and min(x1 - x0, y1 - y0) >= _MIN_SIDE * camera.height)


def _apart(a_xyxy: Array, b_xyxy: Array) -> bool:
    shared = np.clip(np.minimum(a_xyxy[2:], b_xyxy[2:]) - np.maximum(a_xyxy[:2], b_xyxy[:2]), 0, None).prod()
    smaller = min((a_xyxy[2:] - a_xyxy[:2]).prod(), (b_xyxy[2:] - b_xyxy[:2]).prod())
    return bool(shared <= _MAX_COVER * smaller)


# ---------------------------------------------------------------------------------------------------------------------
# What a camera adds


def _develop(dice: Dice, pixels: Array, camera: Camera, room: Room) -> NDArray[np.uint8]:
    """Cells to pixels, then exposure, the light's colour, darker corners and noise."""
    image = cv2.resize(pixels, (camera.width, camera.height), interpolation=cv2.INTER_AREA).astype(np.float32)
    image *= np.array(LIGHTS[room.light_name], np.float32) * np.float32(dice.between(1.0, 1.2))
    across, down = (np.linspace(-1, 1, n, dtype=np.float32) for n in (camera.width, camera.height))
    image *= (1 - 0.11 * (across[None] ** 2 + down[:, None] ** 2))[..., None]
    rng = np.random.default_rng(dice.whole(0, 2**31))
    image += rng.normal(0, dice.between(0.8, 2.2), (*image.shape[:2], 1)).astype(np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# What is visible


def _visible(owners: Array, index: int, thing: Thing, alone: int) -> SceneObject:
    cells = (owners == index).astype(np.uint8)
    x0, y0, wide, high = cv2.boundingRect(cells)
    crop = cells[y0 : y0 + high, x0 : x0 + wide]
    count, s = int(np.count_nonzero(crop)), SUPERSAMPLE
    return SceneObject(
        category=thing.category,
        phrase=thing.phrase,
        bbox_xywh=(x0 / s, y0 / s, wide / s, high / s),
        visible=round(count / alone, 4),
        area=count / s**2,
        polygons=_outlines(crop, x0, y0),
    )


def _outlines(cells: Array, x0: int, y0: int) -> tuple[tuple[float, ...], ...]:
    """Outer contours in pixels, simplified by at most half a pixel; specks are left out."""
    contours, _ = cv2.findContours(cells, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    by_size = sorted(contours, key=cv2.contourArea, reverse=True)
    simple = [cv2.approxPolyDP(c, SUPERSAMPLE / 2, True).reshape(-1, 2) for c in by_size]
    outlines = [c for c in simple if len(c) >= 3]
    kept = [c for c in outlines if cv2.contourArea(c) >= 4 * SUPERSAMPLE**2] or outlines[:1]
    middle = np.array([x0 + 0.5, y0 + 0.5])  # a contour runs through the middles of its cells
    return tuple(tuple(float(v) for v in ((c + middle) / SUPERSAMPLE).ravel()) for c in kept)


def _caption(room: Room, things: Sequence[Thing]) -> str:
    """The objects, near to far, where they stand, and the light."""
    phrases = [thing.phrase for thing in reversed(things)]
    counted = [_counted(phrase, phrases.count(phrase)) for phrase in dict.fromkeys(phrases)]
    listed = counted[0] if len(counted) == 1 else f"{', '.join(counted[:-1])} and {counted[-1]}"
    return f"{listed} in {room.name}, {room.light_name} light"


def _counted(phrase: str, count: int) -> str:
    """ "a stack of boxes", 2 → "two stacks of boxes"."""
    if count == 1:
        return phrase
    words = phrase.split(" ")[1:]
    # The noun stands last, or before what it is made of: "pallet of blue drums", "pallet wrapped in film".
    noun = next((i for i, word in enumerate(words) if word in ("of", "wrapped")), len(words)) - 1
    words[noun] += "s"
    return f"{['two', 'three', 'four', 'five'][count - 2]} {' '.join(words)}"


# ---------------------------------------------------------------------------------------------------------------------
# A data set


def write_dataset(folder: Path, count: int, seed: int, size: tuple[int, int] = (480, 360)) -> dict[str, Any]:
    """Write `count` scenes of size (width, height) pixels: folder/images/*.jpg, then folder/annotations.json (COCO).

    Scene i is drawn from the same seed however many there are. Returns the annotations. Files of the same names are
    replaced, others are left alone.
    """
    coco = to_coco(_written(folder, count, seed, size), seed)
    atomic_write(folder / "annotations.json", _to_text(coco).encode())
    return coco


def _written(folder: Path, count: int, seed: int, size: tuple[int, int]) -> Iterator[Scene]:
    """The scenes, one in memory at a time, each after its picture was written."""
    for index in range(count):
        scene = render(scene_seed(seed, index), *size)
        data = io.BytesIO()
        Image.fromarray(scene.image).save(data, "JPEG", quality=90)
        atomic_write(folder / "images" / _file_name(index), data.getvalue())
        yield scene


def scene_seed(seed: int, index: int) -> int:
    """The seed of a data set's scene."""
    return seed * 1_000_000 + index


def to_coco(scenes: Iterable[Scene], seed: int) -> dict[str, Any]:
    """COCO annotations of a data set's scenes; ids from 1.

    Beyond COCO's own fields a picture has `seed` and `caption`, an annotation `visible` (fraction) and `phrase`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, scene in enumerate(scenes):
        height, width = scene.image.shape[:2]
        picture = {"id": index + 1, "file_name": _file_name(index), "width": width, "height": height, "license": 1}
        images.append(picture | {"seed": scene_seed(seed, index), "caption": scene.caption})
        for thing in scene.objects:
            annotations.append(_annotation(len(annotations) + 1, index + 1, thing))
    return {
        "info": {"description": f"Drawn warehouse scenes, seed {seed}", "version": "1", "contributor": "augment"},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "categories": [{"id": i, "name": n, "supercategory": "warehouse"} for i, n in enumerate(CATEGORIES, 1)],
        "images": images,
        "annotations": annotations,
    }


def _annotation(key: int, image: int, thing: SceneObject) -> dict[str, Any]:
    return {
        "id": key,
        "image_id": image,
        "category_id": CATEGORIES.index(thing.category) + 1,
        "bbox": list(thing.bbox_xywh),
        "area": thing.area,
        "segmentation": [list(polygon) for polygon in thing.polygons],
        "iscrowd": 0,
        "visible": thing.visible,
        "phrase": thing.phrase,
    }


def _file_name(index: int) -> str:
    return f"scene_{index:04d}.jpg"


def _to_text(coco: dict[str, Any]) -> str:
    """JSON with one record a line: small, and a changed scene is a readable difference."""
    parts = []
    for key, value in coco.items():
        rows = [value] if isinstance(value, dict) else value
        lines = ",\n".join(json.dumps(row) for row in rows)
        parts.append(f"{json.dumps(key)}: {lines if isinstance(value, dict) else f'[{chr(10)}{lines}{chr(10)}]'}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: python -m lib.scenes FOLDER --count 24 --seed 7 --size 480 360."""
    parser = argparse.ArgumentParser(prog="python -m lib.scenes", description="Draw a labelled warehouse data set.")
    parser.add_argument("folder", type=Path, help="where images/ and annotations.json go")
    parser.add_argument("--count", type=int, default=24, help="scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="another seed, other scenes (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 360), metavar=("WIDTH", "HEIGHT"), help="pixels")
    given = parser.parse_args(arguments)
    coco = write_dataset(given.folder, given.count, given.seed, tuple(given.size))
    print(f"{len(coco['images'])} pictures, {len(coco['annotations'])} boxes in {given.folder}")
