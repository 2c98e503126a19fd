"""A large COCO file some records at a time, so that no more of it is held than a block of them.

    pieces = read_pieces(settings)
    for rows in pieces.images: ...

The rows are those that coco.py gives of the whole file. What is wrong with a file, and ids that may come twice, are for
the whole file to tell: then Irregular is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from msgspec import Raw

from lib.core.errors import AugmentError
from lib.datasets.formats import Irregular, Pieces
from lib.datasets.formats.coco import (
    Pictures,
    image_columns,
    no_garbage_collection,
    object_columns,
    without_deep,
)
from lib.datasets.formats.coco_blocks import Blocks, read_blocks
from lib.datasets.formats.coco_find import find_json
from lib.datasets.formats.coco_json import category_names, check_utf8, decode_top, envelope_of, plain_ids, top_level
from lib.datasets.formats.tables import images_folder, make_table, packed_column
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

LARGE = 1 << 26  # bytes of a file that is read in pieces


def read_pieces(settings: DatasetSettings) -> Pieces:
    """`coco.read`, some records at a time. Raises Irregular, at any time, for a file that is to be read at once."""
    root = images_folder(settings)
    path = settings.annotations or find_json(root)
    if path.stat().st_size < LARGE:
        raise Irregular
    blocks, where = read_blocks(path), str(path)
    with _regular():
        top = top_level(blocks.top, where)
        envelope, names = envelope_of(top, where), category_names(top["categories"], where)
    known: list[Pictures] = []

    def images() -> Iterator[pa.Table]:
        for start, raws, block in _blocks(blocks, "images", where):
            columns = image_columns(raws, block, settings, where, None, None, start)
            known.append(Pictures.of(columns))
            yield _piece(ImageRow, columns, raws, block, "images", start)
        _check_unique(one.keys for one in known)

    def objects() -> Iterator[pa.Table]:
        pictures, ids = Pictures.joined(known), list[np.ndarray]()
        for start, raws, block in _blocks(blocks, "annotations", where):
            columns = object_columns(raws, block, pictures, names, start)
            ids.append(_hashes(columns["key"]))
            yield _piece(ObjectRow, columns, raws, block, "annotations", start)
        _check_hashes(ids)

    return Pieces(_regularly(images()), _regularly(objects()), envelope)


def _blocks(blocks: Blocks, name: str, where: str) -> Iterator[tuple[int, list[Raw], bytearray]]:
    """(number of the first record, the records, and the JSON list that they are pieces of) of each block."""
    start = 0
    for block in blocks.of(name):
        check_utf8(block, where)
        raws = decode_top(block, list[Raw], f"$.{name}", where)
        yield start, raws, block
        start += len(raws)


def _piece(
    row_type: type[ImageRow] | type[ObjectRow],
    columns: dict[str, Any],
    raws: list[Raw],
    block: bytearray,
    name: str,
    start: int,
) -> pa.Table:
    columns["record"] = packed_column(raws, block)
    return without_deep(make_table(row_type, columns), name, start)


@contextmanager
def _regular() -> Iterator[None]:
    """Around decoding: whatever is wrong is told by reading the file at once."""
    try:
        yield
    except (AugmentError, RecursionError):
        raise Irregular from None


def _regularly(pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    while True:
        with _regular(), no_garbage_collection():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _hashes(keys: pa.Array) -> np.ndarray:
    """(N,) uint64, of ids as `plain_ids` has them; raises Irregular for records without an id."""
    return np.asarray(pd.util.hash_array(plain_ids(keys).to_numpy(zero_copy_only=False)), np.uint64)


def _check_unique(keys: Iterable[pa.Array]) -> None:
    _check_hashes([_hashes(some) for some in keys])


def _check_hashes(ids: list[np.ndarray]) -> None:
    """Raises Irregular where an id may come twice: then its records are compared."""
    joined = np.concatenate([np.zeros(0, np.uint64), *ids])
    joined.sort()
    if (joined[1:] == joined[:-1]).any():
        raise Irregular
