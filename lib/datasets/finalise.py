"""Finalise: where data leaves. One COCO file and one folder of pictures: the originals as they were, and the new ones.

`final/` holds no date, host, path or run id: equal inputs give equal bytes. annotations.json is written last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.core.files import atomic_path, atomic_write, digest, file_digest
from lib.core.images import PictureError, encode_jpeg, load_rgb
from lib.core.keys import key_of
from lib.core.mirror import here
from lib.datasets.ids import Ids
from lib.datasets.names import BESIDE, final_names, label_name, split_name, synthetic_name
from lib.datasets.write_coco import CocoWriter, Sources, final_objects, has_several_splits, kept_pictures
from lib.datasets.write_yolo import yolo_files
from lib.records.outputs import Outputs
from lib.records.requests import Outcome
from lib.records.rows import OK, REJECTED, FinalRow
from lib.records.settings import FinaliseSettings
from lib.records.store import Store

Advance = Callable[[int], None]


def finalise(
    folder: Path,
    sources: Sources,
    reviewed: pd.DataFrame,
    requests: Mapping[str, Outcome],
    ids: Ids,
    settings: FinaliseSettings,
    store: Store,
    known: pd.DataFrame | None,
    advance: Advance = lambda n: None,
    verify: bool = False,
) -> list[FinalRow]:
    """Write the final set into `folder` and return a FinalRow per picture.

    reviewed: ReviewRows that are ok; requests: by key, of those rows; known: the former FinalRows, whose unchanged
    files are not read again, unless `verify`. Raises AugmentError where a file that no run wrote has a name that is
    needed; other such files stay.
    """
    originals = _originals(sources, requests, settings)
    names = final_names(originals, settings.yolo)
    memo = {} if known is None or verify else {row.file_name: row for row in known.itertuples(index=False)}
    ours = Outputs(folder, _former(known, sources.images))
    new_names = (synthetic_name(row.name, settings) for row in reviewed.itertuples(index=False))
    ours.claim([f"images/{name}" for name in (*names.values(), *new_names)])
    writer = _Writer(ours, memo, advance)
    rows = [_place_original(row, names[row.key], sources, writer) for row in originals.itertuples(index=False)]
    by_key = {row.key: row for row in sources.images.itertuples(index=False)}
    rows += [
        _place_synthetic(row, by_key[row.image_key], requests[row.key], ids, sources.root, settings, store, writer)
        for row in reviewed.itertuples(index=False)
    ]
    written = _write_annotations(ours, sources, originals, names, requests, ids, rows, settings)
    # Only now: until here the former annotations.json was true of the files in the folder.
    ours.sweep([*written, *(f"images/{row.file_name}" for row in rows if row.status == OK)])
    return rows


def _former(known: pd.DataFrame | None, images: pd.DataFrame) -> list[str]:
    """Files in a final set of a version that kept no list of names: those of its FinalRows, and those beside them."""
    if known is None:
        return []
    names = known.file_name[known.status == OK].tolist()
    splits = [split_name(split) for split in images.split.unique()]
    labels = [label_name(name) for name in names]
    return [*(f"images/{name}" for name in names), *labels, *splits, *BESIDE]


def _originals(sources: Sources, requests: Mapping[str, Outcome], settings: FinaliseSettings) -> pd.DataFrame:
    kept = sources.images[kept_pictures(sources.images)]
    if settings.originals == "none":
        return kept.iloc[:0]
    if settings.originals == "selected":
        return kept[kept.key.isin({request.image_key for request in requests.values()})]
    return kept


class _Writer:
    """Writes pictures by rename and leaves alone those that exist already, by size and time or by digest."""

    def __init__(self, ours: Outputs, memo: Mapping[str, Any], advance: Advance) -> None:
        self.ours, self.memo, self.advance = ours, memo, advance

    def place(self, name: str, sha256: str, make: Callable[[Path], object]) -> tuple[int, int]:
        """(size, mtime_ns) of the file `name` with this digest; `make` writes it where it does not exist.

        Raises ValueError where what `make` wrote has another digest.
        """
        path = self.ours.folder / "images" / name
        self.ours.check(f"images/{name}", lambda path: file_digest(path) == sha256)
        if not self.is_placed(name, sha256):
            # A manifest from elsewhere may hold such a name.
            if not path.parent.resolve().is_relative_to(self.ours.folder.resolve()):
                raise ValueError(f"{name} leads out of {self.ours.folder}")
            with atomic_path(path) as temporary:
                make(temporary)
                if file_digest(temporary) != sha256:
                    raise ValueError(f"{name} has other bytes than before")
        self.advance(1)
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns

    def is_placed(self, name: str, sha256: str) -> bool:
        """Is the file `name` there, with this digest?"""
        path = self.ours.folder / "images" / name
        if path.is_symlink() or not path.is_file():
            return False
        row, stat = self.memo.get(name), path.stat()
        if row is not None and (row.sha256, row.size, row.mtime_ns) == (sha256, stat.st_size, stat.st_mtime_ns):
            return True
        return file_digest(path) == sha256


def _place_original(row: Any, name: str, sources: Sources, writer: _Writer) -> FinalRow:
    key = f"original:{row.key}"
    try:
        source = here(sources.root / row.path, mark=True)
        size, mtime_ns = writer.place(name, row.digest, lambda to: shutil.copyfile(source, to))
    except (ValueError, FileNotFoundError) as error:
        return FinalRow(key, REJECTED, "image_changed", f"{row.path}: {error}", row.key, name, "", 0, 0, 0)
    return FinalRow(key, OK, "", "", row.key, name, row.digest, size, mtime_ns, 0)


def _place_synthetic(
    row: Any,
    source: Any,
    request: Outcome,
    ids: Ids,
    root: Path,
    settings: FinaliseSettings,
    store: Store,
    writer: _Writer,
) -> FinalRow:
    key, image_id = f"synthetic:{row.key}", str(ids.images[row.key])
    kind, item, name = "picture", row.picture, row.name
    if settings.format == "jpeg":
        kind, item, name = "jpeg", jpeg_key(row.picture, source.digest), synthetic_name(row.name, settings)
    try:
        if kind == "jpeg" and not writer.is_placed(name, store.sha256(kind, item) or ""):
            _keep_jpeg(store, item, row.picture, root / source.path, source.digest)
        sha256 = row.sha256 if kind == "picture" else store.sha256(kind, item)
        if sha256 is None:
            raise ValueError(f"{name} is no longer in the store")
        size, mtime_ns = writer.place(name, sha256, lambda to: to.write_bytes(store.get(kind, item) or b""))
    except PictureError as error:
        return FinalRow(key, REJECTED, error.reason, f"{error.detail}: run again", image_id, name, "", 0, 0, 0)
    except (ValueError, FileNotFoundError) as error:
        return FinalRow(key, REJECTED, "picture_lost", f"{error}: run again", image_id, name, "", 0, 0, 0)
    boxes = sum(not label.dropped for label in request.labels)
    return FinalRow(key, OK, "", "", image_id, name, sha256, size, mtime_ns, boxes)


def jpeg_key(picture: str, source: str) -> str:
    """Key in the store of a picture as JPEG. picture: its own key; source: digest of its source."""
    return key_of("jpeg", picture, source)


def _keep_jpeg(store: Store, item: str, picture: str, source: Path, source_digest: str) -> None:
    """The picture as JPEG with its source's tables, in the store; nothing where the picture is lost.

    Raises FileNotFoundError where the source is gone, PictureError where it is another.
    """
    png = None if store.get("jpeg", item) is not None else store.get("picture", picture)
    if png is not None:
        data = here(source, mark=True).read_bytes()
        if digest(data) != source_digest:
            raise PictureError("image_changed", f"{source} changed since ingest")
        store.put("jpeg", item, encode_jpeg(load_rgb(png, "stored"), like=data))


def _write_annotations(
    ours: Outputs,
    sources: Sources,
    originals: pd.DataFrame,
    names: Mapping[str, str],
    requests: Mapping[str, Outcome],
    ids: Ids,
    rows: list[FinalRow],
    settings: FinaliseSettings,
) -> list[str]:
    """Write annotations.json, a file per split where there are several, and what else the settings ask for.

    Returns the names of the files.
    """
    placed = {row.key: row for row in rows if row.status == OK}
    originals = originals[np.array([f"original:{key}" in placed for key in originals.key], dtype=bool)]
    objects = final_objects(sources.images, sources.objects)
    synthetic = [(key, requests[key], placed[f"synthetic:{key}"]) for key in requests if f"synthetic:{key}" in placed]
    coco = CocoWriter(sources, objects, names, ids, several=has_several_splits(sources.images))
    wanted = {"annotations.json": coco.encode(originals, synthetic)}
    if coco.several:
        for split in sorted(originals.split.unique()):
            of_split = [made for made in synthetic if made[1].split == split]
            wanted[split_name(split)] = coco.encode(originals[originals.split == split], of_split)
    if settings.s3_pair:
        gone = {row.key for row in rows if row.status != OK}
        wanted_keys = {request.image_key for _, request, _ in synthetic if f"original:{request.image_key}" not in gone}
        used = sources.images[sources.images.key.isin(wanted_keys)]
        wanted["selected_ann.json"] = coco.encode(used.iloc[:0], synthetic)
        wanted["original_selected_ann.json"] = coco.encode(used, [])
    labels = yolo_files(wanted["annotations.json"], coco.sizes) if settings.yolo else {}
    files = labels | wanted  # annotations last: they say that the set is complete
    ours.claim(files)
    for name, data in files.items():
        ours.check(name, lambda path, data=data: path.read_bytes() == data)  # type: ignore[misc]
    for name, data in files.items():
        path = ours.folder / name
        if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
            atomic_write(path, data)
    return list(files)
