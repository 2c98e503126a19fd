"""The real pictures that a run's report is about: the selected ones, and what else their split has.

real = RealPictures(images, objects, selected, "train")       # manifests
real.side(root, folder); real.side(root, folder, others=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lib.evaluation.sides import BOX, PICTURE, Side, side_of_tables
from lib.records.manifest import GROUP, read_tables
from lib.records.rows import OK, ImageRow, ObjectRow, SelectRow


@dataclass(frozen=True)
class RealPictures:
    """Read some rows at a time; of all of them the keys alone are held."""

    images: Path  # ImageRows
    objects: Path  # ObjectRows
    selected: Path  # SelectRows
    split: str
    boxes: int  # how many ObjectRows there are

    @cached_property
    def _chosen(self) -> pa.Array:
        tables = read_tables(self.selected, SelectRow, ("key", "status"))
        found = [rows["key"].filter(pc.equal(rows["status"], OK)).combine_chunks() for rows in tables]
        return pa.concat_arrays([_NO_KEYS, *found])

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Columns of the ImageRows of the selected pictures, and of the others."""
        for rows in read_tables(self.images, ImageRow, [*{"key", "status", "split", *columns}]):
            taken = pc.is_in(rows["key"], value_set=self._chosen)
            usable = pc.and_(pc.equal(rows["status"], OK), pc.equal(rows["split"], self.split))
            yield rows.filter(taken).select(columns), rows.filter(pc.and_not(usable, taken)).select(columns)

    def side(self, root: Path, folder: Path, others: bool = False) -> Side:
        """The selected pictures, or the others, with their boxes. root, folder: as of `side_of_tables`."""
        known = pa.concat_arrays([_NO_KEYS, *(pair[others]["key"].combine_chunks() for pair in self.tables(("key",)))])
        boxes = (
            rows.filter(pc.is_in(rows["image_key"], value_set=known))
            for rows in read_tables(self.objects, ObjectRow, BOX, 8 * GROUP)
        )
        images = (pair[others] for pair in self.tables(PICTURE))
        return side_of_tables(images, boxes, root, folder=folder, boxes=self.boxes)


_NO_KEYS = pa.array([], pa.string())
