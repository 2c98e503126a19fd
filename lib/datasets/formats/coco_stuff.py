"""COCO-Stuff: things and stuff as one layout, chosen as the line of layout-to-image models from LostGAN on chooses it.

    dataset: {images: train2017, annotations: annotations, format: coco-stuff}

Two COCO files with the same pictures, instances_train2017.json and stuff_train2017.json, each read as coco.py
reads one; masks stay as they came. The rules are those of CocoSceneGraphDataset (sg2im 1804.01622, LostGAN 1908.07500).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from lib.core.bucket_sets import Beside
from lib.core.errors import AugmentError
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.coco_json import plain_id, plain_ids
from lib.datasets.formats.tables import Verdicts, images_folder, picture_size, read_bytes
from lib.records.rows import OK
from lib.records.settings import DatasetSettings

MIN_SHARE = 0.02  # of its picture that an object's box covers more than
MIN_OBJECTS, MAX_OBJECTS = 3, 8  # in a picture
OTHER = "other"  # the stuff category (183) of all that is neither thing nor stuff

_THINGS, _STUFF = "instances_", "stuff_"


class _Category(msgspec.Struct):
    id: Raw
    name: str


def read(settings: DatasetSettings) -> Dataset:
    """Read instances_NAME.json and stuff_NAME.json. Raises AugmentError; a bad record is a rejected row instead.

    dataset.annotations is one of the two files or their folder; of several pairs there, the one that is named as the
    images folder is. None: in the images folder, or in `annotations` in or beside it.

    Objects that are left out of the layout, and of the final set: crowd, other_stuff, too_small_for_layout (a box that
    covers no more than MIN_SHARE of its picture), annotation_id_duplicate (also between the files). Pictures set aside,
    so that every layout is complete and of a size that a model takes: things_missing (not listed in the first file),
    stuff_missing (no annotation in the second), too_few_objects and too_many_objects (fewer than MIN_OBJECTS or more
    than MAX_OBJECTS left; the smallest are not dropped to make it fit).
    """
    root = images_folder(settings)
    paths = _pair(settings.annotations, root)
    things = read_document(read_bytes(paths[0]), str(paths[0]), settings)
    # Split and group are fields of the first file's pictures alone.
    plain = settings.model_copy(update={"split": None, "group": None})
    stuff = read_document(read_bytes(paths[1]), str(paths[1]), plain)
    envelope = _envelope(things, stuff, paths[1])
    stuff = _as_named(stuff, things.images["key"])
    known = pc.is_in(stuff.images["key"], value_set=things.images["key"])
    images = pa.concat_tables([things.images, stuff.images.filter(pc.invert(known))])
    objects = _judge_objects(things.objects, stuff.objects, images, root)
    return Dataset(_judge_images(images, objects, things), objects, envelope)


# --- files -------------------------------------------------------------------------------------------------------


def beside(settings: DatasetSettings) -> Iterator[Beside]:
    """The other one of the two files; where neither is named, both in `annotations` beside the pictures."""
    given = settings.annotations
    if given is None:
        yield Beside(settings.images.parent / "annotations", (f"{_THINGS}*.json", f"{_STUFF}*.json"))
    elif given.name.startswith((_THINGS, _STUFF)):
        yield Beside(given.parent, tuple(path.name for path in _partners(given)))


def _pair(given: Path | None, root: Path) -> tuple[Path, Path]:
    """The files of things and of stuff."""
    if given is not None and not given.is_dir():
        return _partners(given)
    folders = [given] if given is not None else [root, root / "annotations", root.parent / "annotations"]
    for folder in folders:
        found = {path.stem.removeprefix(_THINGS): _partners(path) for path in sorted(folder.glob(f"{_THINGS}*.json"))}
        pairs = {name: pair for name, pair in found.items() if pair[1].is_file()}
        chosen = next(iter(pairs)) if len(pairs) == 1 else root.name
        if chosen in pairs:
            return pairs[chosen]
        if pairs:
            raise AugmentError(
                f"{len(pairs)} pairs in {folder} ({', '.join(list(pairs)[:5])}), none named as {root}: "
                f"set dataset.annotations to one of the files {_THINGS}*.json"
            )
    raise AugmentError(
        f"no {_THINGS}NAME.json with its {_STUFF}NAME.json in {' or '.join(map(str, folders))}: "
        "set dataset.annotations to the folder that holds both"
    )


def _partners(path: Path) -> tuple[Path, Path]:
    """A file of either kind with the other, whether or not it exists."""
    for prefix in (_THINGS, _STUFF):
        if path.name.startswith(prefix):
            name = path.name.removeprefix(prefix)
            return path.with_name(_THINGS + name), path.with_name(_STUFF + name)
    raise AugmentError(
        f"annotations {path}: expected {_THINGS}NAME.json or {_STUFF}NAME.json, the other beside it, or their folder"
    )


def _envelope(things: Dataset, stuff: Dataset, where: Path) -> bytes:
    """The first file's top-level keys, those that the second alone has, and the categories of both."""
    first, second = (msgspec.json.decode(dataset.envelope, type=dict[str, Raw]) for dataset in (things, stuff))
    raws, names = dict[str, Raw](), dict[str, str]()
    for raw in [raw for top in (first, second) for raw in msgspec.json.decode(top["categories"], type=list[Raw])]:
        category = msgspec.json.decode(raw, type=_Category)
        key = plain_id(category.id)
        if names.setdefault(key, category.name) != category.name:
            raise AugmentError(
                f"{where}: category {key} is {category.name!r} here and {names[key]!r} among the things: they need two "
                "ids, as COCO-Stuff's 1 to 91 and 92 to 183"
            )
        raws.setdefault(key, raw)
    top = {**first, **second, **first, "categories": Raw(b"[" + b",".join(map(bytes, raws.values())) + b"]")}
    return msgspec.json.encode(top)


def _as_named(stuff: Dataset, keys: pa.ChunkedArray) -> Dataset:
    """The second file's rows with the pictures' keys of the first, which may have written an equal id otherwise."""
    own, first = stuff.images["key"].combine_chunks(), keys.combine_chunks()
    if plain_ids(own) is own and plain_ids(first) is first:  # as in almost every file
        return stuff

    def named(column: pa.ChunkedArray) -> pa.ChunkedArray:
        given = column.combine_chunks()
        rows = pc.index_in(plain_ids(given), value_set=plain_ids(first))
        return pa.chunked_array([pc.coalesce(first.take(rows), given)])

    images = _with(stuff.images, "key", named(stuff.images["key"]))
    return Dataset(images, _with(stuff.objects, "image_key", named(stuff.objects["image_key"])), stuff.envelope)


# --- the layout --------------------------------------------------------------------------------------------------


def _judge_objects(things: pa.Table, stuff: pa.Table, images: pa.Table, root: Path) -> pa.Table:
    """Both files' ObjectRows; those that no layout holds are rejected."""
    own, first = (plain_ids(rows["key"].combine_chunks()) for rows in (stuff, things))
    twice = pc.is_in(own, value_set=first)
    numbered = pc.binary_join_element_wise(stuff["key"], "stuff", "#")
    objects = pa.concat_tables([things, _with(stuff, "key", pc.if_else(twice, numbered, stuff["key"]))])
    share = _shares(objects, images, root)
    verdicts = Verdicts(len(objects))
    repeated = np.concatenate([np.zeros(len(things), bool), twice.to_numpy(zero_copy_only=False)])
    verdicts.reject(repeated, "annotation_id_duplicate", lambda i: f"id {objects['key'][i]} is a thing's too")
    verdicts.reject(objects["crowd"].to_numpy(), "crowd", lambda i: "a crowd has no place in a layout")
    other = pc.equal(objects["category"], OTHER).to_numpy()
    verdicts.reject(other, "other_stuff", lambda i: f"{OTHER!r} says nothing of what is there")
    verdicts.reject(
        share <= MIN_SHARE,
        "too_small_for_layout",
        lambda i: f"its box covers {share[i]:.2%} of the picture, a layout's objects cover more than {MIN_SHARE:.0%}",
    )
    return _rejudged(objects, verdicts)


def _shares(objects: pa.Table, images: pa.Table, root: Path) -> np.ndarray:
    """(N,) float64: the share of its picture that a box covers, as annotated; nan where the size is not known."""
    area = images["width"].to_numpy() * images["height"].to_numpy().astype(np.float64)
    for i in np.flatnonzero(area <= 0).tolist():
        area[i] = np.prod(picture_size(root, images["path"][i].as_py())) or np.nan
    return objects["w"].to_numpy() * objects["h"].to_numpy() / np.append(area, np.nan)[_image_rows(objects, images)]


def _judge_images(images: pa.Table, objects: pa.Table, things: Dataset) -> pa.Table:
    """ImageRows; those whose layout is incomplete, too small or too large are rejected."""
    n, at = len(images), _image_rows(objects, images)
    ok = pc.equal(objects["status"], OK).to_numpy()
    held = np.bincount(at[ok & (at >= 0)], minlength=n)
    of_stuff = np.arange(len(objects)) >= len(things.objects)
    verdicts = Verdicts(n)
    verdicts.reject(
        np.arange(n) >= len(things.images), "things_missing", lambda i: "the file of things does not list this picture"
    )
    verdicts.reject(
        np.bincount(at[of_stuff & (at >= 0)], minlength=n) == 0,
        "stuff_missing",
        lambda i: "the file of stuff has nothing on this picture",
    )
    verdicts.reject(
        held < MIN_OBJECTS, "too_few_objects", lambda i: f"{held[i]} left in the layout, expected {MIN_OBJECTS} or more"
    )
    verdicts.reject(
        held > MAX_OBJECTS, "too_many_objects", lambda i: f"{held[i]} in the layout, expected {MAX_OBJECTS} at most"
    )
    return _rejudged(images, verdicts)


def _image_rows(objects: pa.Table, images: pa.Table) -> np.ndarray:
    """(N,) int: each object's row among the images, -1 where it is not among them."""
    return pc.fill_null(pc.index_in(objects["image_key"], value_set=images["key"]), -1).to_numpy()


def _rejudged(rows: pa.Table, verdicts: Verdicts) -> pa.Table:
    """Rows with these verdicts on those that were ok; the others keep theirs."""
    ok = pc.equal(rows["status"], OK)
    for name, column in verdicts.columns().items():
        rows = _with(rows, name, pc.if_else(ok, column, rows[name]))
    return rows


def _with(rows: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), column)
