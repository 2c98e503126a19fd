"""Ids of synthetic pictures and boxes in the final set: above all of the originals' ids, and the same in every run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from lib.core.errors import AugmentError
from lib.records import kept
from lib.records.requests import Outcome

_REMEDY = "restore it, or remove it: all synthetic pictures and boxes then get new ids"

_Numbers = dict[str, Annotated[int, msgspec.Meta(ge=1)]]


class _Ids(msgspec.Struct, forbid_unknown_fields=True):
    images: _Numbers
    annotations: _Numbers


@dataclass
class Ids:
    """Ids of synthetic pictures and boxes: assigned once above the maximum, and kept in ids.json."""

    images: dict[str, int]  # request key → image id
    annotations: dict[str, int]  # "request key:position of the label" → annotation id
    following: tuple[int, int] = field(default=(1, 1), compare=False)  # the next image's and annotation's

    @classmethod
    def read(cls, path: Path) -> Ids:
        """The ids kept in a file; none where the file does not exist yet. Raises AugmentError for a damaged file."""
        stored = kept.read(path, _Ids, _REMEDY)
        if stored is None:
            return cls({}, {})
        for name, known in (("images", stored.images), ("annotations", stored.annotations)):
            if len(set(known.values())) != len(known):
                twice = next(number for number, count in Counter(known.values()).items() if count > 1)
                raise AugmentError(f"{path} is damaged (id {twice} appears twice among its {name}): {_REMEDY}")
        return cls(stored.images, stored.annotations)

    def beyond(self, image_ids: Iterable[str], annotation_ids: Iterable[str]) -> Ids:
        """These ids without those that originals now use; new ones will be above all."""
        images, image = _free(self.images, image_ids)
        annotations, annotation = _free(self.annotations, annotation_ids)
        return Ids(images, annotations, (image, annotation))

    def image(self, key: str) -> int:
        """The id of a request's picture, a new one where it has none yet."""
        if key not in self.images:
            self.images[key] = self.following[0]
            self.following = self.following[0] + 1, self.following[1]
        return self.images[key]

    def annotation(self, key: str, position: int) -> int:
        """The id of a label of a request, a new one where it has none yet."""
        name = f"{key}:{position}"
        if name not in self.annotations:
            self.annotations[name] = self.following[1]
            self.following = self.following[0], self.following[1] + 1
        return self.annotations[name]

    def give(self, key: str, request: Outcome) -> None:
        """Give a request's picture and all its labels their ids."""
        self.image(key)
        for position in range(len(request.labels)):
            self.annotation(key, position)

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        kept.write(path, _Ids(self.images, self.annotations), durable=True)


def _free(known: Mapping[str, int], originals: Iterable[str]) -> tuple[dict[str, int], int]:
    """The known ids that no original has, and the first one above all."""
    given, most, taken = set(known.values()), 0, set[int]()
    for text in originals:
        number = _number(text)
        if number is not None:
            most = max(most, number)
            if number in given:
                taken.add(number)
    free = {key: id for key, id in known.items() if id not in taken}
    return free, max([most, *free.values()]) + 1


def _number(key: str) -> int | None:
    """An id's JSON text as a whole number, rounded up: readers take 7.0 and 7 for the same. None for text."""
    try:
        return int(key)
    except ValueError:
        pass
    try:
        return math.ceil(float(key))
    except (ValueError, OverflowError):
        return None
