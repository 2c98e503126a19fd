"""Grid: one picture painted by several presets, side by side, for a person to choose.

grid = paint_grid({"copy-paste": parameters, "gligen-inpainting": others}, "picture 3.png")
write_sheet(draw_grid(grid), Path("grid.jpg"))                          # sheet.py

What is painted goes into the workspace's store under a run's own keys, so that a later run paints it no more. No other
picture is decoded; where donors or places are drawn from all of them, their files are read for their digests.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.captioning.caption import caption_pictures, make_caption_form
from lib.captioning.captioners import CAPTIONERS
from lib.core.compute import out_of_memory
from lib.core.errors import AugmentError
from lib.core.geometry import IntBox, outer_pixels, window_around, xywh_to_xyxy
from lib.core.images import load_rgb, source_loader
from lib.core.registry import Member
from lib.datasets.formats import categories_of, read_dataset
from lib.datasets.ingest import check_pictures, settle_objects
from lib.datasets.select import OBJECT_COLUMNS, select_pictures
from lib.painting.generate import generate_pictures
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests, targets_of
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics, Survey
from lib.records.manifest import former_manifest, to_table
from lib.records.outputs import check_sources, inputs_of
from lib.records.requests import Request
from lib.records.rows import OK, REJECTED, ImageRow, PlanRow
from lib.records.store import Store
from lib.runs.parameters import Parameters, Resolved, preset_of, resolve_parameters
from lib.runs.workspace import Pins, captioner_of, locked, recipe_of
from lib.screening.draw import Drawn, drawn_boxes

Watch = Callable[[str, int, int], object]  # (what, done, total)
Advance = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one preset made of the picture."""

    name: str
    triple: str = ""  # edit × painter × composite; "" where the parameters do not name a known one
    reason: str = ""  # why there is no picture, in words; "" where there is one
    picture: np.ndarray | None = None  # uint8 (H, W, 3), of the source's size
    boxes: Sequence[Drawn] = ()  # the final labels
    focus: IntBox | None = None  # xyxy: where to look closely
    prompt: str = ""  # of the first pass; "" where the painter reads none
    places: int = 0  # painted, or found in the store
    painted: int = 0  # painted now
    barred: Sequence[str] = ()  # "annotation key: reason" of boxes left alone
    seconds: float = 0.0  # all in all, the loading of models too

    @property
    def outcome(self) -> str:
        """The outcome in a line."""
        if self.reason:
            return self.reason
        done = {0: "from the store", self.places: "painted"}.get(self.painted, f"{self.painted} of them painted now")
        left = f"; left alone: {_counted(self.barred)}" if self.barred else ""
        return f"{self.places} place{'s' * (self.places != 1)}, {done}{left}"


@dataclass(frozen=True)
class Grid:
    """A picture, and what each preset made of it."""

    name: str  # its file name
    source: np.ndarray  # uint8 (H, W, 3)
    boxes: Sequence[Drawn]  # as annotated
    cells: Sequence[Cell]


def paint_grid(
    runs: Mapping[str, Parameters], wanted: str | None = None, watch: Watch = lambda what, done, total: None
) -> Grid:
    """Paint one picture by each preset; a preset that cannot is a cell with its reason.

    Args:
        runs: parameters by preset, at least one; data set, workspace and seed are those of the first.
        wanted: the picture's file name, its path (in the images folder, or from here), or its key; none: the first in
            the data set's order that the first run would take and has something to edit in.
        watch: receives (what, done, total) for each preset, and for the pictures whose bytes are read.

    Raises AugmentError for an unknown preset, a data set that cannot be read, a picture that is not in it or cannot be
    used, and where a run holds the workspace.
    """
    for name in runs:
        preset_of(name)
    given = [parameters.model_copy(update={"preset": name}) for name, parameters in runs.items()]
    root = (given[0].workspace or Path("data/runs/grid")).absolute()
    with locked(root, inputs_of(given[0])):
        bench = _Bench(given[0], root, watch)
        source = bench.first(given[0]) if wanted is None else bench.source(bench.find(wanted))
        cells = []
        for parameters in given:
            watch(parameters.preset, 0, 1)
            cells.append(_cell(bench, source, parameters))
            watch(parameters.preset, 1, 1)
        pixels = source.load(source.row.digest, source.row.frame)
        boxes = [(category, xywh, True) for category, xywh in source.boxes.values()]
        return Grid(source.row.file_name, pixels, boxes, cells)


def _cell(bench: _Bench, source: _Source, given: Parameters) -> Cell:
    begun, triple = time.perf_counter(), ""
    try:
        settings = resolve_parameters(given, bench.root)
        triple = f"{settings.edit.name} × {settings.painter.name} × {settings.composite.name}"
        cell = bench.paint(source, settings)
    except (AugmentError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        cell = Cell(name=given.preset, reason=f"{error}" or type(error).__name__)
    return replace(cell, triple=triple, seconds=time.perf_counter() - begun)


@dataclass(frozen=True)
class _Source:
    """The picture that is painted."""

    images: pd.DataFrame  # ImageRows: its own, checked, and those of its group as annotated
    objects: pa.Table  # its ObjectRows, settled
    row: Any  # its ImageRow
    root: Path  # folder of the pictures

    @property
    def usable(self) -> pd.DataFrame:
        """Its ObjectRows that are ok."""
        return self.objects.filter(pc.equal(self.objects["status"], OK)).to_pandas()

    @property
    def boxes(self) -> dict[str, tuple[str, tuple[float, float, float, float]]]:
        """Annotation key → (category, xywh pixels)."""
        return {o.key: (o.category, (o.x, o.y, o.w, o.h)) for o in self.usable.itertuples()}

    def load(self, digest: str, frame: str) -> np.ndarray:
        """The picture, uint8 (H, W, 3); raises PictureError where it has changed."""
        return source_loader({self.row.digest: str(self.root / self.row.path)})(digest, frame)

    def selected(self, settings: Resolved) -> pd.DataFrame:
        """Its SelectRow; raises AugmentError with the reason where the run would not take it."""
        # The limit of pictures a category does not count: a person chose this one.
        select = settings.select.model_copy(update={"max_per_category": None})
        images, objects = to_table(self.images, ImageRow), self.objects.select(OBJECT_COLUMNS)
        rows = select_pictures(images, objects, select, settings.seed, None).to_pandas()
        rows = rows[rows.key == self.row.key].reset_index(drop=True)
        rules = settings.select.model_dump(exclude_defaults=True)
        _demand("select", rows.iloc[0], ", ".join(f"{name}: {value}" for name, value in rules.items()))
        return rows


_TRIES = 100  # pictures looked at for the first that can be edited


class _Bench:
    """What all presets share: the data set as annotated, and the workspace."""

    def __init__(self, given: Parameters, root: Path, watch: Watch) -> None:
        data = read_dataset(given.dataset)
        self.dataset, self.root, self.watch = given.dataset, root, watch
        self.images, self.objects = data.images.to_pandas(), data.objects
        check_sources(root, given.dataset.images, self.images.path)
        self.categories = set(categories_of(data.envelope))
        self.store, self.pins = Store(root / "store"), Pins(root / "models.lock")
        self.known = former_manifest(root / "manifests" / "ingest.parquet", ImageRow)  # not to be read again
        self.paths: dict[str, str] = {}  # digest → file, of the pictures that were checked

    def find(self, wanted: str) -> int:
        """The position of a picture by its file name, path or key; raises AugmentError where it is not one."""
        rows, here = self.images, os.path.relpath(Path(wanted), self.dataset.images)
        names = rows.file_name.str.replace("\\", "/").str.rpartition("/")[2] if len(rows) else rows.file_name
        exact = (rows.file_name == wanted) | (rows.path == wanted) | (rows.path == Path(here).as_posix())
        for hits in (exact, rows.key.isin([wanted, json.dumps(wanted)]), names == wanted):
            found = np.flatnonzero(hits)
            if len(found) > 1:
                keys = ", ".join(f"{rows.key[i]} ({rows.file_name[i]})" for i in found[:5])
                raise AugmentError(f"{len(found)} pictures are called {wanted!r}: give the key of one, such as {keys}")
            if len(found):
                return int(found[0])
        some = ", ".join(rows.file_name[:3]) or "none"
        raise AugmentError(
            f"no picture {wanted!r} among the {len(rows)} of the data set, such as {some}: give a file name, a path or "
            f"a key"
        )

    def source(self, position: int) -> _Source:
        """A picture, checked; raises AugmentError where it cannot be used."""
        rows = self._checked(self.images.iloc[[position]])
        (row,) = rows.itertuples(index=False)
        if row.status != OK:
            raise AugmentError(f"picture {row.file_name}: {_words(row.reason)}: {row.detail}")
        group = self.images[(self.images.group == row.group) & (row.group != "") & (self.images.key != row.key)]
        objects = settle_objects(rows, self.objects.filter(pc.equal(self.objects["image_key"], row.key)))
        return _Source(pd.concat([rows, group]), objects, row, self.dataset.images)

    def first(self, given: Parameters) -> _Source:
        """The first picture that the run would take, and has something to edit in."""
        try:
            settings = resolve_parameters(given, self.root)
            edit = EDITS.member(settings.edit.name, settings.edit.values)
            select = settings.select
        except AugmentError:  # its cell will show it
            settings, edit, select = None, None, given.select
        objects = self.objects.select(OBJECT_COLUMNS)
        rows = select_pictures(to_table(self.images, ImageRow), objects, select, given.seed, given.limit)
        rows = rows.filter(pc.and_(pc.equal(rows["status"], OK), pc.greater(pc.list_value_length(rows["objects"]), 0)))
        positions = np.flatnonzero(self.images.key.isin(rows["key"].to_pylist()))
        found = None
        for position in positions[:_TRIES]:
            try:
                source = self.source(int(position))
                if settings is None or edit is None or _editable(source, settings, edit):
                    return source
                found = found or source
            except AugmentError:
                continue
        if found is None:
            raise AugmentError(
                f"no picture that can be read has a box that preset {given.preset!r} may edit: name one with --picture"
            )
        return found

    def paint(self, source: _Source, settings: Resolved) -> Cell:
        """The picture as one preset paints it; raises AugmentError with the reason where it cannot."""
        recipe, captioner = recipe_of(settings, self.pins), captioner_of(settings, self.pins)
        recipe.check_categories(self.categories)
        selected = source.selected(settings)
        prompt = self._prompt(source, selected, settings, captioner)
        statistics = self._statistics(source, selected, prompt, settings, recipe)
        prompts, objects = {source.row.key: prompt}, source.usable
        load = source_loader(self.paths)
        outlines = Outlines(load, self.store) if recipe.needs_donors else None
        rows = plan_requests(
            selected, objects, prompts, recipe, statistics, settings.seed, variants=1, outlines=outlines
        )
        _demand("plan", rows[0], counted=": " in rows[0].detail)
        planned = to_table(rows, PlanRow).to_pandas()
        request = Request.model_validate_json(planned.request[0])
        (row,) = generate_pictures(planned, PAINTERS.build(recipe.painter), load, self.store)
        _demand("generate", row)
        boxes = drawn_boxes(request, source.boxes)
        return Cell(
            name=settings.preset,
            picture=load_rgb(self.store.get("picture", row.picture) or b"", "stored"),
            boxes=boxes,
            focus=_focus(request, boxes),
            prompt=request.passes[0].prompt if recipe.painter.model else "",
            places=len(request.passes),
            painted=row.painted,
            barred=list(planned.barred[0]),
        )

    def _prompt(self, source: _Source, selected: pd.DataFrame, settings: Resolved, captioner: Member) -> str:
        form, built = make_caption_form(settings.caption, captioner), CAPTIONERS.build(captioner)
        records = {source.row.key: source.row.record}
        (row,) = caption_pictures(selected, form, self.store, source.load, built, records=records)
        _demand("caption", row)
        return row.prompt

    def _statistics(
        self, source: _Source, selected: pd.DataFrame, prompt: str, settings: Resolved, recipe: Recipe
    ) -> Statistics:
        """Those that a run pinned, or would pin; donors of the categories that are painted."""
        split, prompts = settings.select.split, {source.row.key: prompt}
        survey = Survey(self.root, split, self.categories, partial(self._digested, split), pins=False)
        statistics = survey.statistics(recipe, settings.select.categories)
        if not recipe.needs_donors:
            return statistics
        targets = targets_of(selected, source.usable, prompts, recipe.edit, settings.seed, statistics)
        return replace(statistics, donors=survey.donors({category for _, category in targets}))

    def _checked(self, rows: pd.DataFrame, advance: Advance = lambda count: None, decode: bool = True) -> pd.DataFrame:
        """ImageRows with their pictures checked; the next preset finds them checked."""
        rows = check_pictures(rows, self.dataset.images, self.dataset.max_pixels, self.known, advance, decode)
        self.known = pd.concat([rows, self.known])
        self.paths |= {d: str(self.dataset.images / p) for d, p in zip(rows.digest, rows.path, strict=True) if d}
        return rows

    def _digested(self, split: str, categories: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The ObjectRows that are ok, and all ImageRows, once the pictures of a split that hold some categories are
        read for their digests; the other pictures are set aside."""
        holding = self.objects.filter(pc.is_in(self.objects["category"], pa.array(sorted(categories), pa.string())))
        needed = (self.images.split == split) & self.images.key.isin(holding["image_key"].unique().to_pylist())
        rows = self.images.assign(status=self.images.status.where(needed, REJECTED))
        done, total = 0, len(rows)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.watch("digests", done, total)

        rows = self._checked(rows, advance, decode=False)
        objects = settle_objects(rows, self.objects)
        return objects.filter(pc.equal(objects["status"], OK)).to_pandas(), rows


def _editable(source: _Source, settings: Resolved, edit: Member) -> bool:
    """Does the edit find something to do in the picture? One that draws from the set's places is assumed to."""
    if EDITS.settings(edit.name, edit.settings).needs_places:
        return True
    return bool(targets_of(source.selected(settings), source.usable, {}, edit, settings.seed, Statistics()))


def _demand(stage: str, row: Any, otherwise: str = "", counted: bool = False) -> None:
    """Raise AugmentError with the reason of a row that is set aside.

    otherwise: used where it has no detail; counted: the detail lists boxes, whose reasons are counted.
    """
    if row.status != OK:
        detail = _counted(row.detail.split("; ")) if counted else row.detail or otherwise
        raise AugmentError(f"{stage}: {_words(row.reason)}" + (f" ({detail})" if detail else ""))


def _counted(barred: Sequence[str]) -> str:
    """How many boxes have which reason, of "annotation key: reason"."""
    counts = Counter(_words(text.rpartition(": ")[2]) for text in barred)
    return ", ".join(f"{count} × {reason}" for reason, count in counts.items())


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _focus(request: Request, boxes: Sequence[Drawn]) -> IntBox:
    """Around what was painted; where that is not close, around its objects, or the largest of them; where that is not
    either, the whole picture."""
    regions = [region for step in request.passes for region in step.region]
    objects = [outer_pixels(xywh_to_xyxy(np.array(xywh)).tolist()) for _, xywh, edited in boxes if edited]
    largest = sorted(objects, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))[-1:]
    for group in filter(None, (regions, objects, largest)):
        if window := close_window(group, request.width, request.height):
            return window
    return 0, 0, request.width, request.height


def close_window(boxes: Sequence[IntBox], width: int, height: int, context: float = 1.6) -> IntBox | None:
    """The window of the picture's aspect that holds all boxes, xyxy whole pixels; None where that is more than half of
    it. context: its sides in those of what it holds, at least."""
    left, top, right, bottom = np.clip(boxes, 0, [width, height] * 2).T
    around = int(left.min()), int(top.min()), int(right.max()), int(bottom.max())
    window = window_around(around, width, height, (height, width), context, _CLOSEST)
    return window if (window[2] - window[0]) * (window[3] - window[1]) <= width * height / 2 else None


_CLOSEST = 64  # longer side of a close-up at least, pixels: of fewer nothing can be seen
