"""What many jobs of a run read repeatedly: kept per process, by path and digest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from lib.core.files import digest
from lib.core.images import Load, source_loader
from lib.planning.donors import DonorPool
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics, Survey
from lib.records.manifest import Ref, read_manifest, read_table
from lib.records.requests import Outcome, parsed
from lib.records.rows import OK, ImageRow, ObjectRow, PlanRow
from lib.screening.labels import judged_labels
from tasks.engine import kept


def sources_of(images: Ref, folder: str) -> Load:
    """A loader of source pictures by digest."""
    return _sources(images.path, images.sha256, folder)


@kept(2)
def _sources(path: str, sha256: str, folder: str) -> Load:
    rows = read_manifest(Path(path), ImageRow, ("digest", "path"))
    rows = rows[rows.digest != ""]
    return source_loader({digest: str(Path(folder) / p) for digest, p in zip(rows.digest, rows.path, strict=True)})


def frames_of(images: Ref) -> dict[str, tuple[str, str]]:
    """Image key → (digest, frame): what a loader needs."""
    return _frames(images.path, images.sha256)


@kept(2)
def _frames(path: str, sha256: str) -> dict[str, tuple[str, str]]:
    rows = read_manifest(Path(path), ImageRow, ("key", "digest", "frame"))
    return dict(zip(rows.key, zip(rows.digest, rows.frame, strict=True), strict=True))


def usable_objects(objects: Ref, image_keys: pd.Series) -> pd.DataFrame:
    """The ObjectRows that are ok of some pictures."""
    rows, places = _usable_objects(objects.path, objects.sha256)
    found = [places[key] for key in image_keys if key in places]
    return rows.iloc[np.concatenate(found)] if found else rows.iloc[:0]


@kept(2)
def _usable_objects(path: str, sha256: str) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    table = read_table(Path(path), ObjectRow)
    rows = table.filter(pc.equal(table["status"], OK)).to_pandas()
    return rows, rows.groupby("image_key", sort=False).indices


def boxes_digest(objects: Ref, image_keys: pd.Series) -> str:
    """Digest of the labelled boxes of some source pictures, as they are drawn."""
    rows = usable_objects(objects, image_keys.drop_duplicates())[["key", "category", "x", "y", "w", "h"]]
    return digest(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())


def donors_of(objects: Ref, images: Ref, split: str) -> DonorPool:
    """All objects of a split that may be cut out and pasted."""
    return _donors(objects.path, objects.sha256, images.path, images.sha256, split)


@kept(2)
def _donors(objects: str, objects_sha256: str, images: str, images_sha256: str, split: str) -> DonorPool:
    rows, _ = _usable_objects(objects, objects_sha256)
    return DonorPool.of(rows, read_manifest(Path(images), ImageRow), split)


def survey_of(
    objects: Ref, images: Ref, root: Path, split: str, categories: Collection[str], pins: bool = True
) -> Survey:
    """The statistics of a data set with these categories, pinned in the workspace at `root`."""

    def rows(_: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _usable_objects(objects.path, objects.sha256)[0], read_manifest(images.file, ImageRow)

    return Survey(root, split, categories, rows, pins)


def statistics_of(
    objects: Ref,
    images: Ref,
    root: Path,
    split: str,
    categories: Collection[str],
    recipe: Recipe,
    wanted: Collection[str] | None = None,
    pins: bool = False,
) -> Statistics:
    """What a plan draws from. categories, pins: as `survey_of`; wanted: as Survey.statistics."""
    statistics = survey_of(objects, images, root, split, categories, pins).statistics(recipe, wanted)
    return replace(statistics, donors=donors_of(objects, images, split)) if recipe.needs_donors else statistics


def boxes_of(objects: Ref) -> Mapping[str, tuple[str, tuple[float, float, float, float]]]:
    """Annotation key → (category, xywh pixels), of those that are ok."""
    return _boxes(objects.path, objects.sha256)


@kept(2)
def _boxes(path: str, sha256: str) -> Mapping[str, tuple[str, tuple[float, float, float, float]]]:
    rows, _ = _usable_objects(path, sha256)
    boxes = zip(rows.x, rows.y, rows.w, rows.h, strict=True)
    return dict(zip(rows.key, zip(rows.category, boxes, strict=True), strict=True))


def outcomes_of(plan: Ref, keys: Iterable[str]) -> dict[str, Outcome]:
    """What requests end in, by key, of PlanRows that are ok."""
    requests = _requests(plan.path, plan.sha256)
    return {key: parsed(Outcome, requests[key]) for key in keys}


@kept(2)
def _requests(path: str, sha256: str) -> dict[str, bytes]:
    rows = read_manifest(Path(path), PlanRow, ("key", "status", "request"))
    rows = rows[rows.status == OK]
    return dict(zip(rows.key, rows.request, strict=True))


def judged_outcomes(plan: Ref, rows: pd.DataFrame, objects: Ref) -> dict[str, Outcome]:
    """`outcomes_of` ScreenRows or ReviewRows, their labels as the judge of boxes left them."""
    outcomes = outcomes_of(plan, rows.key)
    if not rows.boxes.map(len).any():
        return outcomes
    boxes = boxes_of(objects)
    return {
        key: judged_labels(outcomes[key], verdicts, boxes) for key, verdicts in zip(rows.key, rows.boxes, strict=True)
    }
