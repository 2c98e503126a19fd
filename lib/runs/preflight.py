"""Preflight: what a run would find wrong later, found within seconds, before Prefect starts and anything is written.

    settings = check_run(parameters, workspace)         # names, settings, paths, checkpoints: opens no data
    check_data(settings, lay_dataset(settings.dataset))        # categories and room: opens no picture

`augment run` does both before its server has started, a deployment's flow as its first step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.captioning.caption import make_caption_form
from lib.captioning.captioners import CAPTIONERS
from lib.core.bucket_sets import Beside
from lib.core.checkpoints import check_at_hand, weights_of
from lib.core.errors import AugmentError, nearest, unknown
from lib.core.mirror import look
from lib.core.places import url_of
from lib.core.registry import Family, Member
from lib.core.storage import free_space
from lib.core.words import size_in_words
from lib.datasets.formats import FORMATS, ROOM, Pieces, bring_dataset, categories_of, lay_dataset, places_beside
from lib.datasets.formats.tables import images_folder
from lib.datasets.select import OBJECT_COLUMNS, select_batches
from lib.evaluation.features import EXTRACTORS, extractor_of
from lib.evaluation.metrics import METRICS
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.planning.recipe import Recipe
from lib.planning.target import check_target, count_boxes
from lib.records.outputs import check_workspace, inputs_of
from lib.records.rows import OK
from lib.records.settings import Choice, DatasetSettings, EvaluateSettings
from lib.runs.account import former_account
from lib.runs.engine_checks import check_engine
from lib.runs.parameters import Parameters, Resolved, resolve_parameters
from lib.runs.presets import PRESETS
from lib.runs.unchanged import unchanged
from lib.runs.workspace import Pins, unlabelled_model
from lib.screening.review import check_review


def preflight(parameters: Parameters, workspace: Path) -> bool:
    """Both checks. Raises AugmentError, one sentence with what was expected and the next step.

    Returns whether there seems to be nothing to do: the last run had the same settings and the same data.
    workspace: used where the parameters have none.
    """
    settings = check_run(parameters, workspace)
    data = lay_dataset(settings.dataset, records=False)
    check_data(settings, data)
    return unchanged(parameters, settings, data)


def check_run(parameters: Parameters, workspace: Path) -> Resolved:
    """The settings, once their names, paths and checkpoints are known to be right."""
    settings = resolve_parameters(parameters, workspace)
    root = settings.workspace.absolute()
    if settings.dataset.format not in FORMATS:
        raise unknown(FORMATS.kind, settings.dataset.format, FORMATS)
    _look_at_buckets(settings, root)
    recipe_without_models(settings)
    make_caption_form(settings.caption, captioner_without_model(settings))
    images_folder(settings.dataset)
    annotations = settings.dataset.annotations
    if annotations is not None and not annotations.exists():
        raise AugmentError(f"annotations {annotations} not found: check dataset.annotations")
    check_review(settings.review)
    check_engine(settings.engine)
    check_workspace(root, inputs_of(settings))
    pinned = Pins(root / "models.lock").pinned
    for setting, model in _models(settings):
        check_at_hand(model, pinned, setting)
    return settings


def _look_at_buckets(settings: Resolved, root: Path) -> None:
    """Raise AugmentError where a bucket is not there, may not be read, or has data set and workspace in one folder."""
    if url_of(root) is not None:
        _check_apart(settings.dataset, root)
    look(root)
    bring_dataset(settings.dataset)


def _check_apart(dataset: DatasetSettings, root: Path) -> None:
    """Of the copy of a data set's folder goes what its bucket lacks: of a workspace there, what is not sent yet."""
    named = {"dataset.images": dataset.images, "dataset.annotations": dataset.annotations}
    places = [(name, Beside(path.absolute())) for name, path in named.items() if path is not None]
    for name, place in [*places, *(("the data set's folder", one) for one in places_beside(dataset))]:
        if place.touches(root):
            raise AugmentError(
                f"workspace {root} and {name} {place.folder} lie one in the other: set `workspace` to another folder "
                "of the bucket"
            )


def recipe_without_models(settings: Resolved) -> Recipe:
    """Edit, painter and composite with their settings checked; which checkpoint the painter has is left open."""
    return Recipe(
        edit=EDITS.member(settings.edit.name, settings.edit.values),
        painter=PAINTERS.member(settings.painter.name, settings.painter.values),
        composite=COMPOSITES.member(settings.composite.name, settings.composite.values),
    )


def captioner_without_model(settings: Resolved) -> Member:
    """The captioner in the same way."""
    return CAPTIONERS.member(settings.captioner.name, settings.captioner.values)


def _models(settings: Resolved) -> list[tuple[str, str]]:
    """(setting that takes a folder, model) of all that the run loads from the hub or from a folder."""
    found = [
        *_weights("painter", PAINTERS, settings.painter, settings.models),
        *_weights("caption.captioner", CAPTIONERS, settings.captioner, settings.models),
        ("screen.boxes.judge", settings.screen.judge),
        ("screen.unlabelled.detector: model", unlabelled_model(settings)),
        *_measures(settings.evaluate),
    ]
    return [(setting, model) for setting, model in found if model]


def _weights(place: str, family: Family, choice: Choice, models: str) -> list[tuple[str, str | None]]:
    found = weights_of(choice.name, family[choice.name], family.settings(choice.name, choice.values), models)
    return [(f"{place}.{setting}", text) for setting, text in found.items()]


def _measures(settings: EvaluateSettings) -> list[tuple[str, str | None]]:
    """Names and settings of the measures are checked here; those that take models say which."""
    if settings.extractor is None:
        return []
    if settings.extractor not in EXTRACTORS:
        raise unknown(EXTRACTORS.kind, settings.extractor, EXTRACTORS)
    extractor_of(settings.extractor).check_at_hand()
    found = []
    for one in settings.metrics:
        choice = Choice(name=one) if isinstance(one, str) else one
        needs = getattr(METRICS.settings(choice.name, choice.values), "needs", dict)
        models = {"model": METRICS.model_of(choice.name, choice.values), **needs()}
        found += [(f"evaluate.metrics {choice.name}: {setting}", model) for setting, model in models.items()]
    return found


def check_data(settings: Resolved, data: Pieces) -> None:
    """Raise AugmentError where the data set lacks a category that is asked for, or the disk the room for the result.

    data: as its annotations describe it, gone through more than once; its pictures need not have been looked at, and
    its records are not needed.
    """
    known = categories_of(data.envelope)
    recipe = recipe_without_models(settings)
    recipe.check_categories(known)
    check_wanted(settings, known)
    if settings.target is not None:
        boxes = count_boxes(data.images, data.objects, settings.select.split)
        check_target(settings.target, recipe, boxes, known, settings.select.categories)
    check_room(settings, data)


def check_wanted(settings: Resolved, known: Collection[str]) -> None:
    """Raise AugmentError where `select`, or `screen.unlabelled` for labels, names a category that is not there."""
    unlabelled = settings.screen.unlabelled
    for name in (unlabelled.categories or ()) if unlabelled and unlabelled.do == "propose" else ():
        if name not in known:
            raise AugmentError(
                f"screen.unlabelled.categories: the data set has no category {name!r}{nearest(name, known)} for a "
                f"label, it has {', '.join(sorted(known)) or 'none'}; name some of them, or set screen.unlabelled.do "
                "to reject"
            )
    for field in ("categories", "exempt"):
        for name in getattr(settings.select, field) or ():
            if name not in known:
                preset = PRESETS[settings.preset].get("select", {}).get(field) or ()
                whose = f" of preset {settings.preset!r}" if name in preset else ""
                raise AugmentError(
                    f"select.{field}{whose}: the data set has no category {name!r}{nearest(name, known)}, it has "
                    f"{', '.join(sorted(known)) or 'none'}; set select.{field} to some of them"
                )


def check_room(settings: Resolved, data: Pieces) -> None:
    """Raise AugmentError where the disk has less room than what is planned needs at least."""
    rows = select_batches(
        lambda: data.images,
        (table.select(OBJECT_COLUMNS) for table in data.objects),
        settings.select,
        settings.seed,
        settings.limit,
        ROOM,
        sum(map(len, data.objects)),
    )
    pictures = sum(len(table.filter(pc.equal(table["status"], OK))) for table in rows)
    if settings.target is not None and not settings.target.limit:
        pictures = 0  # how many its boxes take is not known before they are drawn
    former = former_account(settings.workspace)
    done = sum(count for name in ("painted", "reused") if isinstance(count := former.get(name), int))
    made = max(0, pictures * settings.variants - done)
    needed, free = room_needed(settings, data.images, made, copies=not done), free_space(settings.workspace.absolute())
    if needed > free:
        raise AugmentError(
            f"workspace {settings.workspace} needs about {size_in_words(needed)} for {made} pictures, and its disk has "
            f"{size_in_words(free)} left: set `workspace` to a folder on another disk, or `limit` to fewer pictures"
        )


_LOOKED_AT = 64  # pictures whose size on the disk is looked at
_PNG_OF_JPEG = 4  # a decoded photograph as PNG, in bytes of its JPEG: 4 to 8
_KEPT = 2  # times a picture is kept: in the store and in the final set; its drawing and its paints are smaller


def room_needed(settings: Resolved, images: Iterable[pa.Table], made: int, copies: bool) -> int:
    """Bytes that `made` new pictures need at least, roughly, by the sizes of some source pictures on the disk.

    images: ImageRows; copies: the originals are yet to be copied into the final set.
    """
    found = (table["path"].filter(pc.equal(table["status"], OK)) for table in images)
    paths = pa.concat_arrays([pa.array([], pa.string()), *(chunk for column in found for chunk in column.chunks)])
    looked_at = paths.take(np.arange(0, len(paths), max(1, len(paths) // _LOOKED_AT))).to_pylist()
    some = [settings.dataset.images / path for path in looked_at if path]
    sizes = [(path.stat().st_size, path.suffix.lower()) for path in some if path.is_file()]
    if not sizes:
        return 0
    source = float(np.mean([size for size, _ in sizes]))
    picture = float(np.mean([size * (1 if suffix == ".png" else _PNG_OF_JPEG) for size, suffix in sizes]))
    originals = len(paths) if copies and settings.finalise.originals == "all" else 0
    return round(originals * source + made * _KEPT * picture)
