"""The stages of a run up to its plan, by their own functions; nothing is written into the workspace. Rows wait in
temporary files, so that a data set may be larger than memory.

rehearsal = Rehearsal(settings, root, lay_dataset(settings.dataset), watch)
for rows, objects in rehearsal.plan(): ...      # PlanRows, and the ObjectRows of their pictures

Of a picture its bytes are read for their digest, and its header; so a file that is broken further on is found by the
run alone. Captions that a model would make are replaced by the template's.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.captioning.caption import caption_pictures, make_caption_form
from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import weights_of
from lib.core.errors import AugmentError
from lib.core.images import source_loader
from lib.core.registry import Family, Member
from lib.datasets.formats import ROOM, Pieces, categories_of
from lib.datasets.ingest import check_pictures, settled_objects
from lib.datasets.select import OBJECT_COLUMNS, in_order_of_limit, select_batches
from lib.painting.painters import PAINTERS
from lib.planning.donor_pool import DonorPool, outside_of
from lib.planning.enough import enough, planned
from lib.planning.former import Former, former_donors
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics, Survey, rows_drawn_from
from lib.planning.target import (
    DrawGroup,
    Wanted,
    choose_draws,
    count_boxes,
    paintable,
    plan_draws,
    sources_needed,
    steered,
    wanted_boxes,
)
from lib.records.manifest import GROUP, grouped, read_table, read_tables, to_table
from lib.records.rows import OK, CaptionRow, ImageRow, ObjectRow, PlanRow, Row, SelectRow
from lib.records.settings import Choice
from lib.records.shelf import Shelf
from lib.records.sorting import LaidRows, sorted_rows
from lib.records.store import ReadOnlyStore
from lib.runs.parameters import Resolved
from lib.runs.preflight import captioner_without_model, recipe_without_models
from lib.runs.workspace import Pins

Watch = Callable[[str, int, int], object]  # (what, done, total)


_PIECE = 512  # pictures that are captioned and planned together
_SETTLED = ("key", "status", "reason", "width", "height")
_STATE = ("status", "reason", "detail", "path", "digest", "frame", "width", "height", "size", "mtime_ns")


class _Beside:
    """Rows that each belong to one of some pictures, in the order of these. total: rows, about; by: the column with the
    image key."""

    def __init__(
        self, pictures: LaidRows, tables: Iterable[pa.Table], row_type: type[Row], total: int, by: str = "image_key"
    ) -> None:
        self._by, empty = by, to_table([], row_type)
        keys = pa.concat_arrays([pa.array([], pa.string()), *(k for table in pictures for k in table["key"].chunks)])
        counts = np.zeros(len(keys), np.int64)
        own = (table.filter(pc.is_in(table[by], value_set=keys)) for table in tables)

        def place_of(table: pa.Table) -> np.ndarray:
            return pc.index_in(table[by], value_set=keys).to_numpy()

        def ordered() -> Iterator[pa.Table]:
            yield empty
            for places, rows in sorted_rows(own, place_of, max(len(keys), 1), total, ROOM):
                np.add.at(counts, places, 1)
                yield rows

        self._rows = LaidRows(ordered(), ROOM)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def of(self, some: pd.DataFrame) -> pd.DataFrame:
        """Those of some of the pictures, which are near each other."""
        first, end = (some.index[0], some.index[-1] + 1) if len(some) else (0, 0)
        rows = self._rows[self._starts[first] : self._starts[end]]
        return rows[rows[self._by].isin(some.key)]


def _in_pieces(rows: LaidRows) -> Iterator[pd.DataFrame]:
    return (rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE))


class Rehearsal:
    """The stages of a run up to its plan; nothing is written into the workspace."""

    def __init__(self, settings: Resolved, root: Path, data: Pieces, watch: Watch) -> None:
        self.settings, self.root = settings, root
        self.store, self.notes = ReadOnlyStore(root / "store"), list[str]()
        self.left = {stage: Counter[str]() for stage in ("ingest", "select", "caption", "plan")}  # by reason
        self.categories = set(categories_of(data.envelope))
        self.images = LaidRows(self._checked(data.images, watch), ROOM)
        self.objects = LaidRows(self._settled(data.objects), ROOM)  # that are ok
        paths = Shelf[str](ROOM)
        for table in self.images:
            read = table.filter(pc.not_equal(table["digest"], ""))
            files = (str(settings.dataset.images / path) for path in read["path"].to_pylist())
            paths.put(zip(read["digest"].to_pylist(), files, strict=True))
        self.load = source_loader(paths)
        self.recipe = self._recipe()
        self.captioner, self.form = self._captions()

    def plan(self) -> Iterator[tuple[list[PlanRow], pd.DataFrame]]:
        """PlanRows of some pictures, and their ObjectRows, which are ok."""
        settings, recipe = self.settings, self.recipe
        captioned = LaidRows(self._captioned(self._taken()), ROOM)
        beside = self._objects_of(captioned)
        former, donors = None, dict[str, Any]()
        if recipe.needs_donors:
            expected = len(captioned) * settings.variants
            former = _Beside(captioned, self._former_plan(), PlanRow, expected)
            donors["outlines"] = Outlines(self.load, self.store)
        for group in [None] if settings.target is None else self._draws(captioned):
            for some in _in_pieces(captioned):
                if group is not None:
                    some = some[some.key.isin(list(group.draws))]
                objects = beside.of(some)
                if former is not None:
                    donors["former"] = _former_donors(former.of(some))
                common = some, objects, _prompts(some), recipe, self._statistics, settings.seed
                if group is None:
                    rows = plan_requests(*common, settings.variants, **donors)
                else:
                    rows = plan_draws([group], *common, **donors)
                self.left["plan"].update(row.reason for row in rows if row.status != OK)
                yield rows, objects

    def _checked(self, images: Iterable[pa.Table], watch: Watch) -> Iterator[pa.Table]:
        """ImageRows; a picture that the last run read is not read again."""
        dataset, last = self.settings.dataset, self.root / "manifests" / "ingest.parquet"
        total, done, known = sum(map(len, images)), 0, None
        if last.is_file():
            with contextlib.suppress(AugmentError):  # of another version
                known = read_table(last, ImageRow, _STATE)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            watch("digests", done, total)

        for table in grouped(images, GROUP):
            before = None if known is None else known.filter(pc.is_in(known["path"], table["path"])).to_pandas()
            rows = check_pictures(table.to_pandas(), dataset.images, dataset.max_pixels, before, advance, decode=False)
            self.left["ingest"].update(rows.reason[rows.status != OK])
            yield to_table(rows, ImageRow)

    def _settled(self, objects: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """ObjectRows that are ok."""
        none = to_table([], ImageRow)
        narrow = pa.concat_tables([table.select(_SETTLED) for table in (none, *self.images)]).to_pandas()
        yield to_table([], ObjectRow)
        for table in settled_objects(narrow, grouped(objects, GROUP)):
            yield table.filter(pc.equal(table["status"], OK))

    def _recipe(self) -> Recipe:
        """With the painter's checkpoint where it lies on this machine: then it is known what the store has."""
        recipe = recipe_without_models(self.settings)
        return recipe.model_copy(update={"painter": self._with_model(PAINTERS, self.settings.painter, recipe.painter)})

    def _with_model(self, family: Family, choice: Choice, member: Member) -> Member:
        values = family.settings(choice.name, choice.values)
        pins, refs = Pins(self.root / "models.lock"), {}
        for name, given in weights_of(choice.name, family[choice.name], values, self.settings.models).items():
            if given.startswith("mini:") or Path(given).expanduser().is_dir() or given in pins.pinned:
                refs[name] = pins.resolve(given)
            else:
                self.notes.append(f"checkpoint {given} is not pinned yet: all pictures count as new")
        return member.model_copy(update=refs)

    def _captions(self) -> tuple[Member, Any]:
        captioner = captioner_without_model(self.settings)
        if CAPTIONERS[captioner.name].MODEL is not None:
            self.notes.append(
                f"captions of {captioner.name} are replaced by the template's: prompts differ from the run's, and what "
                "it has painted already counts as new"
            )
            captioner = CAPTIONERS.member("template", {})
        return captioner, make_caption_form(self.settings.caption, captioner)

    def _select(self, limit: int | None) -> Iterator[pa.Table]:
        """SelectRows."""
        settings = self.settings
        objects = (table.select(OBJECT_COLUMNS) for table in self.objects)
        total = len(self.objects)
        return select_batches(lambda: self.images, objects, settings.select, settings.seed, limit, ROOM, total)

    def _taken(self) -> int | None:
        """How many pictures are taken, in the order of their hashes: as many as it takes for the target, or for so many
        plans as the limit asks for; None: all."""
        settings, limit = self.settings, self.settings.limit
        if settings.target is None and limit is None:
            return None
        candidates = self._in_order(_ok(self._select(None)), len(self.images))
        if settings.target is not None:
            return sources_needed(candidates, self.recipe, self._goals, limit or 0)
        assert limit is not None
        if len(candidates) <= limit:
            return limit
        beside, records = self._objects_of(candidates), self._records_of(candidates)

        def come_out(some: pd.DataFrame) -> set[str]:
            prompts = {row.key: row.prompt for row in self._caption(some, records) if row.status == OK}
            some = some[some.key.isin(list(prompts))]
            common = self.recipe, self._statistics, settings.seed, settings.variants
            return planned(some, beside.of(some), prompts, *common)

        return max(limit, enough(candidates, limit, come_out))

    def _in_order(self, tables: Iterable[pa.Table], total: int) -> LaidRows:
        return in_order_of_limit(tables, self.settings.seed, total, ROOM)

    def _objects_of(self, pictures: LaidRows) -> _Beside:
        return _Beside(pictures, self.objects, ObjectRow, len(self.objects))

    def _records_of(self, pictures: LaidRows) -> _Beside | None:
        """ImageRows, where the captioner needs their records."""
        needed = CAPTIONERS[self.captioner.name].NEEDS_RECORDS
        return _Beside(pictures, self.images, ImageRow, len(pictures), by="key") if needed else None

    def _caption(self, selected: pd.DataFrame, records: _Beside | None) -> list[CaptionRow]:
        built, of_pictures = CAPTIONERS.build(self.captioner), None
        if records is not None:
            rows = records.of(selected)
            of_pictures = dict(zip(rows.key, rows.record, strict=True))
        return caption_pictures(selected, self.form, self.store, self.load, built, records=of_pictures)

    def _captioned(self, taken: int | None) -> Iterator[pa.Table]:
        """SelectRows of the pictures that have a caption, with its prompt as one more column."""

        def selected() -> Iterator[pa.Table]:
            for table in self._select(taken):
                self.left["select"].update(table["reason"].filter(pc.not_equal(table["status"], OK)).to_pylist())
                yield table

        usable = LaidRows(_ok(selected()), ROOM)
        records = self._records_of(usable)
        for some in _in_pieces(usable):
            captions = self._caption(some, records)
            self.left["caption"].update(row.reason for row in captions if row.status != OK)
            prompts = pa.array([row.prompt for row in captions], pa.string())
            good = pa.array([row.status == OK for row in captions], pa.bool_())
            yield to_table(some, SelectRow).append_column("prompt", prompts).filter(good)

    @cached_property
    def _goals(self) -> dict[str, int]:
        """Category → painted boxes that the target asks for."""
        target, select = self.settings.target, self.settings.select
        assert target is not None
        boxes = count_boxes(self.images, self.objects, select.split)
        return wanted_boxes(target, boxes, paintable(self.recipe, boxes, select.categories))

    def _draws(self, captioned: LaidRows) -> list[DrawGroup]:
        """Those of a single round, as if screening refused nothing."""
        settings, goals = self.settings, self._goals
        caps = [n for n in (settings.budget.pictures, settings.limit) if n is not None]
        wanted = Wanted(boxes=goals, pictures=None if goals else settings.limit, most=min(caps, default=None))
        candidates = self._in_order(captioned, len(captioned))
        beside = self._objects_of(candidates)
        categories: dict[str, str] = {}  # of the pictures that are looked at

        def look(some: pd.DataFrame, variant: int, lacking: Sequence[str]) -> list[PlanRow]:
            objects, prompts = beside.of(some), _prompts(some)
            categories.clear()
            categories.update(zip(objects.key, objects.category, strict=True))
            recipe, statistics, some = steered(self.recipe, self._statistics, some, lacking)
            variants = {key: [variant] for key in some.key}
            return plan_requests(some, objects, prompts, recipe, statistics, settings.seed, variants)

        found = choose_draws(candidates, wanted, 0, look, categories)
        self.notes.append("as if screening refused nothing: what it refuses the run replaces by new draws")
        self.notes += [f"target {name}: no further source gives a box" for name in found.without]
        return found.groups

    def by_picture(self) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """ObjectRows that are ok and ImageRows, of each some pictures with all their objects."""
        return ((self._all_objects.of(images), images) for images in _in_pieces(self.images))

    @cached_property
    def _all_objects(self) -> _Beside:
        return self._objects_of(self.images)

    @cached_property
    def _statistics(self) -> Statistics:
        split = self.settings.select.split
        by_picture = self.by_picture
        survey = Survey(self.root, split, self.categories, lambda _: rows_drawn_from(by_picture(), split), pins=False)
        statistics = survey.statistics(self.recipe, self.settings.select.categories)
        if not self.recipe.needs_donors:
            return statistics
        outside = outside_of((table.select(["split", "group"]).to_pandas() for table in self.images), split)
        return replace(statistics, donors=DonorPool.of_parts(by_picture(), split, outside, ROOM))

    def _former_plan(self) -> Iterator[pa.Table]:
        """The last run's PlanRows that are ok."""
        file = self.root / "manifests" / "plan.parquet"
        if file.is_file():
            with contextlib.suppress(AugmentError):  # of another version
                yield from _ok(read_tables(file, PlanRow))


def _ok(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    return (table.filter(pc.equal(table["status"], OK)) for table in tables)


def _prompts(captioned: pd.DataFrame) -> dict[str, str]:
    return dict(zip(captioned.key, captioned.prompt, strict=True))


def _former_donors(plan: pd.DataFrame) -> Mapping[int, Former]:
    with contextlib.suppress(msgspec.MsgspecError):  # of another version
        return former_donors(plan.request)
    return {}
