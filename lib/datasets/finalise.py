"""Finalise: where data leaves. One COCO file and one folder of pictures: the originals as they were, and the new ones.

`final/` holds no date, host, path or run id: equal inputs give equal bytes. annotations.json is written last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.core.files import atomic_path, digest, file_digest, unused_path
from lib.core.images import PictureError, encode_jpeg, load_rgb
from lib.core.keys import key_of
from lib.core.mirror import here
from lib.datasets.coco_file import CocoFile
from lib.datasets.ids import Ids
from lib.datasets.names import BESIDE, FinalNames, label_name, split_name, synthetic_name
from lib.datasets.write_coco import CocoWriter, Listing, Shapes, SourceRows, original
from lib.datasets.write_yolo import yolo_files
from lib.records.outputs import Outputs
from lib.records.requests import Outcome
from lib.records.rows import OK, REJECTED, FinalRow
from lib.records.settings import FinaliseSettings
from lib.records.shelf import Shelf
from lib.records.store import Store
from lib.records.verified import file_mark

Advance = Callable[[int], None]


class Made:
    """What was painted, and goes into the final set; whoever has its rows elsewhere gives them in the two methods."""

    def __init__(self, reviewed: pd.DataFrame, requests: Mapping[str, Outcome]) -> None:
        """reviewed: ReviewRows that are ok; requests: by key, of those rows."""
        self.reviewed, self.requests = reviewed, requests

    def rows(self) -> Iterator[pd.DataFrame]:
        """ReviewRow columns image_key and name, some at a time."""
        yield self.reviewed

    def outcomes(self) -> Iterator[tuple[Any, Outcome]]:
        """Each ReviewRow with its request, in the order of the data set."""
        for row in self.reviewed.itertuples(index=False):
            yield row, self.requests[row.key]


def finalise(
    folder: Path,
    sources: SourceRows,
    made: Made,
    ids: Ids,
    settings: FinaliseSettings,
    store: Store,
    known: Iterable[pd.DataFrame] | None,
    advance: Advance = lambda n: None,
    verify: bool = False,
) -> Iterator[FinalRow]:
    """Write the final set into `folder`, giving a FinalRow per picture as it goes; it is complete with the last.

    No more is held than some rows, and the keys of all pictures. ids: those of all that is new are written before
    annotations.json; known: the former FinalRows, whose unchanged files are not read again, unless `verify`.
    Raises AugmentError where a file that no run wrote has a name that is needed; other such files stay.
    """
    ids.clear_of(
        (key for rows in sources.image_rows("key") for key in rows.key),
        (key for rows in sources.final_objects() for key in rows.key),
    )
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _Originals(sources, made, settings, folder)
    memo = Shelf[str](folder)
    _remember(known or (), memo)
    ours = Outputs(folder, () if known is None else _former(memo, sources))
    ours.claim(_pictures(sources, made, chosen, settings))
    writer = _Writer(ours, None if verify else memo, advance)
    with ExitStack() as stack:
        lists = _Listings(folder, sources, ids, settings)
        stack.callback(lists.close)
        gone: set[str] = set()  # keys of originals whose files are no longer what they were
        used: set[str] = set()  # keys of pictures that new ones were made from
        for rows in sources.image_rows():
            rows = chosen.of(rows)
            for source, name in zip(rows.itertuples(index=False), chosen.names.of(rows), strict=True):
                row = _place_original(source, name, sources.root, writer)
                yield row
                if row.status == OK:
                    lists.add_original(source, name)
                    ours.keep([f"images/{row.file_name}"])
                else:
                    gone.add(source.key)
        lists.add_objects(chosen.keys, gone)
        picture = sources.pictures()
        for review, request in made.outcomes():
            source, records = picture(review.image_key)
            ids.give(review.key, len(request.labels))
            row = _place_synthetic(review, source, request, ids, sources.root, settings, store, writer)
            yield row
            if row.status == OK:
                lists.add_synthetic(review.key, request, row, source, records)
                used |= {review.image_key} if settings.s3_pair else set()
                ours.keep([f"images/{row.file_name}"])
        ids.write()
        written = _write_annotations(ours, lists, sources, chosen, pa.array(sorted(used - gone), pa.string()), settings)
    # Only now: until here the former annotations.json was true of the files in the folder.
    ours.sweep(written)


def _remember(known: Iterable[pd.DataFrame], memo: Shelf[str]) -> None:
    """Enter the files of some FinalRows."""
    for rows in known:
        rows = rows[rows.status == OK]
        memo.put(zip(rows.file_name, map(file_mark, rows.sha256, rows["size"], rows.mtime_ns), strict=True))


def _former(memo: Shelf[str], sources: SourceRows) -> Iterator[str]:
    """Files in a final set of a version that kept no list of names: those of its FinalRows, and those beside them."""
    for name, _ in memo.items():
        yield from (f"images/{name}", label_name(name))
    splits = {split for rows in sources.image_rows("split") for split in rows.split.unique()}
    yield from (*map(split_name, splits), *BESIDE)


def _pictures(sources: SourceRows, made: Made, chosen: _Originals, settings: FinaliseSettings) -> Iterator[str]:
    """Names of the files that the set may get."""
    for rows in sources.image_rows(*_NAMED):
        yield from (f"images/{name}" for name in chosen.names.of(chosen.of(rows)))
    for rows in made.rows():
        yield from (f"images/{synthetic_name(name, settings)}" for name in rows.name)


class _Originals:
    """Which source pictures join the final set, and under which names."""

    def __init__(self, sources: SourceRows, made: Made, settings: FinaliseSettings, folder: Path) -> None:
        """folder: for files of a moment."""
        self.keys: pa.Array = sources.kept
        if settings.originals == "none":
            self.keys = self.keys.slice(0, 0)
        if settings.originals == "selected":
            used = [pa.array(rows.image_key, pa.string()) for rows in made.rows()]
            self.keys = self.keys.filter(pc.is_in(self.keys, value_set=pa.concat_arrays([_NO_KEYS, *used])))
        self.names = FinalNames(lambda: map(self.of, sources.image_rows(*_NAMED)), folder, settings.yolo)

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Those of some ImageRows."""
        return rows[among(rows.key, self.keys)]


_NO_KEYS = pa.array([], pa.string())
_NAMED = ("key", "file_name", "path")  # what names are made of


class _Writer:
    """Writes pictures by rename and leaves alone those that exist already, by size and time or by digest."""

    def __init__(self, ours: Outputs, memo: Shelf[str] | None, advance: Advance) -> None:
        """memo: `file_mark` of the files that are known, by name."""
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
        stat = path.stat()
        if self.memo is not None and self.memo.get(name) == file_mark(sha256, stat.st_size, stat.st_mtime_ns):
            return True
        return file_digest(path) == sha256


def _place_original(row: Any, name: str, root: Path, writer: _Writer) -> FinalRow:
    key = f"original:{row.key}"
    try:
        source = root / row.path
        size, mtime_ns = writer.place(
            name, row.digest, lambda to: shutil.copyfile(here(source, mark=True, sha256=row.digest), to)
        )
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
    key, image_id = f"synthetic:{row.key}", str(ids.image(row.key))
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
        data = here(source, mark=True, sha256=source_digest).read_bytes()
        if digest(data) != source_digest:
            raise PictureError("image_changed", f"{source} changed since ingest")
        store.put("jpeg", item, encode_jpeg(load_rgb(png, "stored"), like=data))


class _Listings:
    """The COCO files of the final set in the making, by name: all, each split, and the new pictures alone."""

    def __init__(self, folder: Path, sources: SourceRows, ids: Ids, settings: FinaliseSettings) -> None:
        self.folder, self.sources = folder, sources
        several = len(sources.splits) > 1
        self.shapes = Shapes()
        self.writer = CocoWriter(sources.envelope, ids, self.shapes, several)
        self.all = Listing(folder)
        self.splits = {split: Listing(folder) for split in sources.splits} if several else {}
        self.new = Listing(folder) if settings.s3_pair else None
        self.used_splits = set[str]()  # of originals in the set

    def add_original(self, row: Any, name: str) -> None:
        """A source picture, an ImageRow, that lies in the folder."""
        record = original(row, name)
        self.all.add("images", [record])
        if self.splits:
            self.splits[row.split].add("images", [record])
            self.used_splits.add(row.split)

    def add_objects(self, keys: pa.Array, gone: Collection[str]) -> None:
        """The annotations of the source pictures with these keys, but for those that are gone."""
        left = pa.array(sorted(gone), pa.string())
        splits = self._split_keys() if self.splits else {}
        for objects in self.sources.final_objects():
            self.shapes.look(objects)
            objects = objects[among(objects.image_key, keys) & ~among(objects.image_key, left)]
            self.all.add("annotations", objects.record)
            for split, own in splits.items():
                self.splits[split].add("annotations", objects.record[among(objects.image_key, own)])

    def _split_keys(self) -> dict[str, pa.Array]:
        found: dict[str, list[pa.Array]] = {split: [_NO_KEYS] for split in self.splits}
        for rows in self.sources.image_rows("key", "split"):
            for split, keys in rows.key.groupby(rows.split):
                if split in found:
                    found[split].append(pa.array(keys, pa.string()))
        return {split: pa.concat_arrays(keys) for split, keys in found.items()}

    def add_synthetic(
        self, key: str, request: Outcome, row: FinalRow, source: Any, records: Mapping[str, bytes]
    ) -> None:
        """A painted picture that lies in the folder, and its labels. source, records: of what it was made from."""
        image = self.writer.image(key, request, row, source)
        annotations = self.writer.annotations(key, request, records)
        for listing in filter(None, (self.all, self.splits.get(request.split), self.new)):
            listing.count(request)
            listing.add("images", [image])
            listing.add("annotations", annotations)

    def used_originals(self, chosen: _Originals, used: pa.Array) -> Listing:
        """A file of the source pictures with these keys alone."""
        listing = Listing(self.folder)
        for rows in self.sources.image_rows():
            some = rows[among(rows.key, used)]
            names = zip(
                some.itertuples(index=False),
                chosen.names.of(some),
                some.file_name,
                among(some.key, chosen.keys),
                strict=True,
            )
            listing.add("images", (original(row, name if in_set else own) for row, name, own, in_set in names))
        for objects in self.sources.final_objects():
            listing.add("annotations", objects.record[among(objects.image_key, used)])
        return listing

    def close(self) -> None:
        """Let go of what was made for them."""
        for listing in filter(None, (self.all, self.new, *self.splits.values())):
            listing.close()


def _write_annotations(
    ours: Outputs,
    lists: _Listings,
    sources: SourceRows,
    chosen: _Originals,
    used: pa.Array,
    settings: FinaliseSettings,
) -> Iterator[str]:
    """Write annotations.json, a file per split where there are several, and what else the settings ask for.

    used: keys of the originals, in the folder, that new pictures were made from. Returns the names of the files.
    """
    wanted = {"annotations.json": lists.all}
    wanted |= {split_name(split): lists.splits[split] for split in sorted(lists.used_splits)}
    if lists.new is not None:
        wanted |= {"selected_ann.json": lists.new, "original_selected_ann.json": lists.used_originals(chosen, used)}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_temporary(ours.folder)) for name in wanted}
        for name, listing in wanted.items():
            stack.callback(listing.close)
            listing.write(files[name], sources.envelope, lists.shapes.masks)
        labels = Shelf[bytes](ours.folder)
        if settings.yolo:
            sized = sources.image_rows("key", "width", "height")
            sizes = (row for rows in sized for row in zip(rows.key, rows.width, rows.height, strict=True))
            labels = yolo_files(CocoFile(files["annotations.json"]), sizes, ours.folder)
        listed = {name: file_digest(file) for name, file in files.items()}

        def digests() -> Iterator[tuple[str, str]]:
            yield from ((name, digest(data)) for name, data in labels.items())
            yield from listed.items()  # last: they say that the set is complete

        ours.claim(name for name, _ in digests())
        for name, sha256 in digests():
            ours.check(name, lambda path, sha256=sha256: file_digest(path) == sha256)  # type: ignore[misc]
        for name, sha256 in digests():
            path = ours.folder / name
            if not path.is_symlink() and path.is_file() and file_digest(path) == sha256:
                continue
            with atomic_path(path) as new:
                if name in files:
                    files[name].replace(new)
                else:
                    new.write_bytes(labels.get(name) or b"")
    return (name for name, _ in digests())


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A file beside those that are to be, which is gone at the end."""
    path = unused_path(folder, ".json")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def among(values: pd.Series, keys: pa.Array) -> np.ndarray:
    """(N,) bool: values that are keys."""
    found = pc.is_in(pa.array(values, pa.string()), value_set=keys)
    return np.asarray(found.to_numpy(zero_copy_only=False), bool)
