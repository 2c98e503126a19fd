"""Ids of synthetic pictures and boxes in the final set: above all of the originals' ids, and the same in every run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Ids:
    """Ids of synthetic pictures and boxes: assigned once above the maximum, and kept in ids.json."""

    images: dict[str, int]  # request key → image id
    annotations: dict[str, int]  # "request key:position of the label" → annotation id

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

    def assign(self, requests: Mapping[str, Outcome], image_ids: Iterable[str], annotation_ids: Iterable[str]) -> Ids:
        """Ids for all these requests, in their order; an id that an original now uses is given anew."""
        labels = [f"{key}:{i}" for key, request in requests.items() for i in range(len(request.labels))]
        return Ids(_assign(self.images, requests, image_ids), _assign(self.annotations, labels, annotation_ids))

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        kept.write(path, _Ids(self.images, self.annotations), durable=True)


def _assign(known: Mapping[str, int], keys: Iterable[str], originals: Iterable[str]) -> dict[str, int]:
    taken = {number for i in originals if (number := _number(i)) is not None}
    result = {key: i for key, i in known.items() if i not in taken}
    following = max([0, *taken, *result.values()]) + 1
    for key in keys:
        if key not in result:
            result[key] = following
            following += 1
    return result


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
