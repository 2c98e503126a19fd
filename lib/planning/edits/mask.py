"""mask: new content in given masks, those that the annotations have (of format triples, or of any set with masks)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from lib.planning.edits import Box, Draft, LabelledPicture, Target, WindowSettings, new_object, nothing, ranked
from lib.records.labels import annotation_mask
from lib.records.rle import encode_rle


class Mask:
    """One target per chosen annotation that has a mask; box and mask stay its label, unless another covers them."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False

    class Settings(WindowSettings):
        """The prompt is the caption's where none is set, and "a {category}" for painters that read no phrases."""

        max_boxes: int | None = Field(None, ge=1, description="at most so many masks of a picture; none: all")
        category: str | None = Field(None, description="category that the new objects have; none: that of the old ones")

        @property
        def paints_own(self) -> bool:
            return self.category is None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, picture: LabelledPicture) -> Draft:
        """Targets in the order of the annotations; one without a mask, or with an empty one, is left alone."""
        editable = [box for box in picture.boxes if box.editable]
        targets: dict[str, Target] = {}
        barred: dict[str, str] = {}
        most = len(editable) if self.settings.max_boxes is None else self.settings.max_boxes
        for box in ranked(editable, picture, "mask"):  # decoded only until there are enough
            if len(targets) == most:
                break
            mask = _mask(box, picture)
            if isinstance(mask, str):
                barred[box.key] = f"{box.key}: {mask}"
            else:
                targets[box.key] = self._target(box, mask, picture)
        keeps = tuple(box.key for box in picture.boxes if box.key not in targets)
        ordered = tuple(targets[box.key] for box in editable if box.key in targets)
        left = tuple(barred[box.key] for box in editable if box.key in barred)
        return Draft(ordered, keeps, left, "" if targets else nothing(picture))

    def _target(self, box: Box, mask: np.ndarray, picture: LabelledPicture) -> Target:
        prompt, plain = new_object(self.settings, self.settings.category, picture, box)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        region = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        return Target(
            region=(region,),
            boxes=(region,),
            phrases=(prompt if self.settings.prompt else self.settings.category or box.category,),
            prompt=prompt,
            plain=plain,
            about=(box.key,),
            redraws=(box.key,),
            category=self.settings.category,
            mask=encode_rle(mask),
        )


def _mask(box: Box, picture: LabelledPicture) -> np.ndarray | str:
    """bool (H, W) of the picture, or the reason why the box has none."""
    try:
        mask = annotation_mask(box.record, (picture.height, picture.width))
    except ValueError:
        return "mask_malformed"
    if mask is None:
        return "no_mask"
    return mask if mask.any() else "mask_empty"
