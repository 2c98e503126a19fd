"""Crops around labelled boxes, their nearest neighbours, and panels of them: what is measured of painted defects.

boards = read_boards(DatasetSettings(images=folder, format="deep-pcb"))
crops = crops_of(boards.only(boards.images.split == "test"))
features = ClassifierFeatures(judge).extract(crops.windows)     # an extractor as those of lib/evaluation/features.py
found = nearest(crops.close, others.close)                      # over the eight symmetries of a square
write_sheet(neighbour_panel(crops, others, found), Path("neighbours.png"))
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.core.geometry import crop_window, outer_pixels, to_window, window_around, xywh_to_xyxy
from lib.core.images import load_rgb
from lib.core.vision import Pixels, batched, crop_region, prepared
from lib.datasets.formats import read_dataset
from lib.datasets.formats.tables import marked
from lib.datasets.ingest import check_pictures, settle_objects
from lib.evaluation.features import Features
from lib.judges.classifier import CropClassifier
from lib.painting.canvas import canvas_of, mask_of, resized
from lib.painting.painters import Painter, PassInput
from lib.records.requests import Pass
from lib.records.rows import OK
from lib.records.settings import DatasetSettings

SIDE = 64  # pixels of a window, one a pixel of the picture: the model's own; shrunk where a box is longer
CLOSE = 32  # pixels of a crop whose neighbours are looked for: the box fills it, as a judge sees it

_GROUND, _INK, _FRAME = 24, (240, 240, 240), (255, 0, 255)
_GAP, _LARGER = 6, 3  # pixels between cells; times that windows grow


# --- boards ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boards:
    """A labelled data set, or a part of it: usable rows alone."""

    root: Path  # folder of the pictures
    images: pd.DataFrame  # ImageRow
    objects: pd.DataFrame  # ObjectRow
    categories: list[dict[str, Any]]  # as COCO has them

    def only(self, chosen: pd.Series) -> Boards:
        """The pictures where `chosen`, a bool of each, is True, and their boxes."""
        images = self.images[chosen]
        return replace(self, images=images, objects=self.objects[self.objects.image_key.isin(images.key)])

    @property
    def stems(self) -> pd.Series:
        """The part of each picture's name that it shares with its partner's."""
        stems: pd.Series = self.images.path.str.rpartition("_")[0]
        return stems

    def some(self, boxes: int, seed: int = 0) -> pd.Series:
        """bool of each picture: pictures drawn at random until they have at least so many boxes, or all."""
        counts = self.images.key.map(self.objects.image_key.value_counts()).fillna(0).to_numpy()
        order = np.random.default_rng(seed).permutation(len(counts))
        before = np.cumsum(counts[order]) - counts[order]
        return pd.Series(np.isin(np.arange(len(counts)), order[before < boxes]), index=self.images.index)

    def write(self, folder: Path) -> None:
        """A COCO file with a link `images` beside it, as `augment fidelity` and the journey read it.

        Raises AugmentError where something else than a link lies there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "images"
        if os.path.lexists(link) and not link.is_symlink():
            raise AugmentError(f"{link} is in the way of a link to {self.root}: move it, or name another workspace")
        if not link.is_symlink() or link.readlink() != self.root.absolute():
            link.unlink(missing_ok=True)
            link.symlink_to(self.root.absolute())
        records = {"images": self.images.record, "annotations": self.objects.record}
        document = {name: [msgspec.Raw(record) for record in rows] for name, rows in records.items()}
        atomic_write(folder / "annotations.json", msgspec.json.encode(document | {"categories": self.categories}))


def read_boards(dataset: DatasetSettings, painted: bool = False) -> Boards:
    """A data set as the journey ingests it, without the rows that it would set aside; pictures are not decoded.

    painted: boxes alone that a painter filled. Raises AugmentError as the reader of the format does.
    """
    data = read_dataset(dataset)
    images = check_pictures(data.images.to_pandas(), dataset.images, dataset.max_pixels, decode=False)
    objects = settle_objects(images, data.objects).to_pandas()
    usable = objects.status == OK
    if painted:
        usable &= marked(objects.record, "painted", exactly=True)
    categories = msgspec.json.decode(data.envelope)["categories"]
    return Boards(dataset.images, images[images.status == OK], objects[usable], categories)


# --- crops -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crops:
    """Crops around N boxes."""

    windows: NDArray[np.uint8]  # (N, SIDE, SIDE, 3) RGB around each, inside its picture
    boxes: NDArray[np.float64]  # (N, 4) xyxy pixels of the window
    close: NDArray[np.float32]  # (N, CLOSE, CLOSE) grey 0 .. 255, the box with some context, resized to fill it
    categories: NDArray[np.object_]  # (N,) names
    keys: list[tuple[Any, ...]]  # id of the picture (of a synthetic one: of its source), then the box, xywh pixels

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Crops:
        """Those rows, in that order."""
        at = np.asarray(rows, np.int64)
        keys = [self.keys[row] for row in at]
        return Crops(self.windows[at], self.boxes[at], self.close[at], self.categories[at], keys)

    def draw(self, count: int, seed: int = 0) -> Crops:
        """`count` of them at random, or all where they are fewer."""
        return self.take(np.random.default_rng(seed).permutation(len(self.keys))[:count])

    def of(self, category: str, count: int, seed: int = 0) -> Crops:
        """`count` of one category."""
        return self.take(np.flatnonzero(self.categories == category)).draw(count, seed)


def crops_of(boards: Boards) -> Crops:
    """Crops of all boxes; raises PictureError for a picture that cannot be read, AugmentError for no boxes."""
    if boards.objects.empty:
        raise AugmentError(f"no box to crop in {len(boards.images)} pictures of {boards.root}: expected labelled ones")
    of_picture = dict(list(boards.objects.groupby("image_key", sort=False)))
    windows, places, close, names, keys = [], [], [], list[str](), list[tuple[Any, ...]]()
    for row in boards.images[boards.images.key.isin(of_picture.keys())].itertuples(index=False):
        pixels, record = load_rgb(boards.root / row.path, row.frame), msgspec.json.decode(row.record)
        for labelled in of_picture[row.key].itertuples(index=False):
            box = xywh_to_xyxy(np.array([labelled.x, labelled.y, labelled.w, labelled.h], float))
            window, place = window_of_box(pixels, box)
            windows.append(window)
            places.append(place)
            close.append(crop_region(pixels, box.tolist(), CLOSE).mean(axis=2, dtype=np.float32))
            names.append(labelled.category)
            keys.append((record.get("source_image_id", record["id"]), labelled.x, labelled.y, labelled.w, labelled.h))
    return Crops(np.stack(windows), np.stack(places), np.stack(close), np.array(names, object), keys)


def window_of_box(picture: Pixels, box: NDArray[np.float64]) -> tuple[Pixels, NDArray[np.float64]]:
    """(SIDE, SIDE, 3) around a box (xyxy pixels), moved into the picture where it can, and the box in its pixels."""
    height, width = picture.shape[:2]
    window = window_around(outer_pixels(box.tolist()), width, height, (SIDE, SIDE), 1, SIDE)
    return resized(crop_window(picture, window), (SIDE, SIDE)), to_window(box, window, (SIDE, SIDE))


class ClassifierFeatures:
    """Features of a classifier before its last layer, pooled (lib/evaluation/features.Extractor).

    Published networks know no circuit boards; this classifier was trained on such defects.
    """

    VERSION: ClassVar[int] = 1
    RESIZE: ClassVar[str] = "squeezed to the model's own square, by areas where a side shrinks, else bilinear (OpenCV)"

    name = "classifier"

    def __init__(self, judge: CropClassifier) -> None:
        self.judge = judge

    @property
    def batch_size(self) -> int:
        return self.judge.batch_size

    @property
    def dimensions(self) -> int:
        """Channels of its last stage."""
        return int(self.judge.load().model.config.hidden_sizes[-1])

    @property
    def identity(self) -> str:
        """Name, version, the judge's identity (its weights' revision in it), and the resize rule."""
        return f"{self.name} {self.VERSION}: pooled features of {self.judge.identity}, RGB, {self.RESIZE}"

    def check_at_hand(self) -> None:
        """Nothing to look for: the weights are a folder's, found when the judge was named."""

    def check(self) -> None:
        """Read the weights; raises AugmentError where they cannot be read."""
        self.judge.load()

    def extract(self, pictures: Iterable[Pixels]) -> Features:
        """(N, dimensions) float64 of uint8 HWC RGB pictures."""
        classifier = self.judge.load()

        def pooled(crops: Sequence[Pixels]) -> Any:
            pixels = prepared(crops, classifier.size, classifier.mean, classifier.std).to(classifier.model.device)
            return classifier.model.base_model(pixel_values=pixels).pooler_output.flatten(1)

        return batched(self.judge.ref, list(pictures), self.batch_size, pooled, self.dimensions).astype(np.float64)


# --- neighbours, samples -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """The nearest of some crops to each of N others."""

    distance: NDArray[np.float64]  # (N,) root of the mean squared difference, grey values
    number: NDArray[np.int64]  # (N,) which it is
    symmetry: NDArray[np.int64]  # (N,) how it is turned, see `turned`


def turned(crops: NDArray[np.float32], symmetry: int) -> NDArray[np.float32]:
    """(N, S, S) crops under one of the eight symmetries: 0 .. 3 quarters to the left, from 4 on mirrored then too."""
    made = np.rot90(crops, symmetry % 4, axes=(1, 2))
    return made if symmetry < 4 else made[:, :, ::-1]


def nearest(crops: NDArray[np.float32], among: NDArray[np.float32]) -> Neighbours:
    """For each of (N, S, S) grey crops the nearest of (M, S, S), turned and mirrored in all eight ways."""
    x = crops.reshape(len(crops), -1).astype(np.float64)
    rows, best = np.arange(len(x)), np.full(len(x), np.inf)
    number, symmetry = np.zeros(len(x), np.int64), np.zeros(len(x), np.int64)
    for turn in range(8):
        y = turned(among, turn).reshape(len(among), -1).astype(np.float64)
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        first = squares.argmin(axis=1)
        better = squares[rows, first] < best
        best[better], number[better], symmetry[better] = squares[rows, first][better], first[better], turn
    return Neighbours(np.sqrt(np.maximum(best, 0) / x.shape[1]), number, symmetry)


def samples(painter: Painter, picture: Pixels, step: Pass, count: int, whole: bool) -> Pixels:
    """(count, H, W, 3) paints of one pass, by its own seed and the next; whole: nothing of the picture is kept."""
    step = step.model_copy(update={"region": (step.window,)}) if whole else step
    steps = [step.model_copy(update={"seed": (step.seed + i) % 2**63}) for i in range(count)]
    items = [PassInput(step, canvas_of(picture, step), mask_of(step)) for step in steps]
    size = painter.batch_size
    return np.stack([paint.image for i in range(0, count, size) for paint in painter.paint(items[i : i + size])])


# --- panels ------------------------------------------------------------------------------------------------------


def contact_sheet(clean: Crops, painted: Crops, real: Crops, count: int = 6, columns: int = 2) -> Image.Image:
    """A block a category: `count` clean windows, below them the same ones painted, below those real examples."""
    blocks = []
    for category in sorted(set(painted.categories)):
        chosen = painted.of(category, count)
        where = {key: row for row, key in enumerate(clean.keys)}
        before = clean.take([where[key] for key in chosen.keys])
        rows = [_framed(crops, count) for crops in (before, chosen, real.of(category, count))]
        blocks.append(_captioned(_tiled(rows), f"{category}: clean, painted, real"))
    return _panel(blocks, columns)


def neighbour_panel(made: Crops, among: Crops, found: Neighbours, count: int = 4) -> Image.Image:
    """A row a category: `count` pairs of a painted box and the nearest real one, turned as it fits, and how far."""
    cells = []
    for category in sorted(set(made.categories)):
        rows = np.flatnonzero(made.categories == category)
        for row in np.random.default_rng(0).permutation(rows)[:count]:
            number = found.number[row]
            near = turned(among.close[number][None], int(found.symmetry[row]))[0]
            caption = f"{category} | {among.categories[number]}, {found.distance[row]:.0f}"
            cells.append(_captioned(_tiled([[_enlarged(grey, 4) for grey in (made.close[row], near)]]), caption))
        cells += [np.full_like(cells[0], _GROUND)] * (-len(cells) % count)
    return _panel(cells, count)


def _framed(crops: Crops, count: int) -> list[Pixels]:
    """`count` windows enlarged, a thin frame around each box, so that it hides nothing of it; dark where there are
    fewer."""
    cells = []
    for pixels, box in zip(crops.windows, crops.boxes, strict=True):
        large = _enlarged(pixels, _LARGER)
        (x0, y0), (x1, y1) = np.floor(box[:2] * _LARGER).astype(int) - 3, np.ceil(box[2:] * _LARGER).astype(int) + 2
        cells.append(cv2.rectangle(large, (int(x0), int(y0)), (int(x1), int(y1)), _FRAME, 1).astype(np.uint8))
    blank = np.full((SIDE * _LARGER, SIDE * _LARGER, 3), _GROUND, np.uint8)
    return cells + [blank] * (count - len(cells))


def _enlarged(pixels: NDArray[Any], times: int) -> Pixels:
    """uint8 (H, W, 3) of a grey or RGB picture, each pixel a square."""
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(np.rint(rgb).astype(np.uint8).repeat(times, axis=0).repeat(times, axis=1))


def _tiled(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Rows of pictures of one size, with gaps."""
    gaps = ((0, _GAP), (0, _GAP), (0, 0))
    parts = [[np.pad(cell, gaps, constant_values=_GROUND) for cell in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in parts])


def _captioned(pixels: Pixels, text: str) -> Pixels:
    """With a line of text above, 24 pixels high."""
    line = Image.new("RGB", (pixels.shape[1], 24), (_GROUND,) * 3)
    ImageDraw.Draw(line).text((2, 4), text, fill=_INK, font=ImageFont.load_default(size=14))
    return np.concatenate([np.asarray(line), pixels])


def _panel(cells: Sequence[Pixels], columns: int) -> Image.Image:
    """Cells of one size in so many columns."""
    filled = [*cells, *[np.full_like(cells[0], _GROUND)] * (-len(cells) % columns)]
    rows = [filled[i : i + columns] for i in range(0, len(filled), columns)]
    return Image.fromarray(np.pad(_tiled(rows), ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=_GROUND))


# --- for a person ------------------------------------------------------------------------------------------------


def by_figure(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{set: {figure: value}} → {figure: {set: value}}, as a card shows it."""
    names = dict.fromkeys(name for figures in found.values() for name in figures)
    return {name: {given: figures[name] for given, figures in found.items() if name in figures} for name in names}
