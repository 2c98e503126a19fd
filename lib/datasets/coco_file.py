"""A COCO file that this project wrote, some records at a time: no more of it is held than a block of them.

coco = CocoFile(folder / "annotations.json")
coco.top                                    # the document, its images and annotations emptied
for image in coco.records("images", Image): ...
notes = coco.by_picture(folder)             # on disk
for record in notes.of(image.id): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from lib.core.errors import AugmentError
from lib.datasets.formats import Irregular
from lib.datasets.formats.coco_blocks import Blocks, read_blocks
from lib.datasets.formats.coco_json import plain_id
from lib.records.kept import FAULTS
from lib.records.shelf import Shelf

T = TypeVar("T")


class CocoFile:
    """Raises FileNotFoundError where there is none; AugmentError where it is damaged, when that is come upon."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks: Blocks | None
        try:
            self._blocks = read_blocks(path)
            self.top = msgspec.json.decode(self._blocks.top, type=dict[str, msgspec.Raw])
        except (Irregular, *FAULTS):
            self._blocks, self.top = None, self._whole(dict[str, msgspec.Raw])

    def records(self, name: str, kind: type[T]) -> Iterator[T]:
        """Those of `images` or `annotations`, as a type."""
        if self._blocks is None:
            yield from self._value(name, list[kind])  # type: ignore[valid-type]
            return
        try:
            for block in self._blocks.of(name):
                yield from msgspec.json.decode(block, type=list[kind])  # type: ignore[valid-type]
        except (Irregular, *FAULTS):
            self._value(name, list[kind])  # type: ignore[valid-type]  # it says what is wrong, and where in the file
            raise

    def value(self, name: str, kind: type[T]) -> T:
        """Another value of the top level."""
        try:
            return msgspec.json.decode(self.top[name], type=kind)
        except (KeyError, *FAULTS):
            return self._value(name, kind)

    def by_picture(self, folder: Path) -> ByPicture:
        """The annotations; folder: where they lie meanwhile."""
        return ByPicture(folder, self.records("annotations", msgspec.Raw))

    def _value(self, name: str, kind: type[T]) -> T:
        found: T = getattr(self._whole(msgspec.defstruct("document", [(name, kind)])), name)
        return found

    def _whole(self, kind: type[T]) -> T:
        """The file read at once: of one that is damaged this tells the place, and some few are not of blocks."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=kind)
        except FAULTS as error:
            raise AugmentError(f"{self.path} is damaged ({error}): run again, which writes it anew") from None


class _Owned(msgspec.Struct):
    image_id: msgspec.Raw


class ByPicture:
    """Annotation records by the picture that they belong to, in their order."""

    def __init__(self, folder: Path, records: Iterable[msgspec.Raw]) -> None:
        self._records = Shelf[bytes](folder)
        owner = msgspec.json.Decoder(_Owned).decode
        self._records.put(
            (f"{plain_id(owner(record).image_id)}\0{place:012}", bytes(record)) for place, record in enumerate(records)
        )

    def of(self, image_id: msgspec.Raw) -> Iterator[bytes]:
        """Those of a picture; equal ids may be written as 1 and 1.0."""
        return self._records.under(f"{plain_id(image_id)}\0")
