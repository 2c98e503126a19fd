"""replace: new content in chosen boxes, the rest of the picture kept."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from lib.core.geometry import covered_xyxy, padded
from lib.core.keys import hash_draw
from lib.core.registry import MemberSettings
from lib.planning.edits import Box, Draft, LabelledPicture, Target, WindowSettings, chosen, new_object, nothing


class ReplaceSettings(MemberSettings):
    """Which boxes may be painted over as a whole."""

    max_boxes: int | None = Field(None, ge=1, description="at most so many boxes of a picture; none: all")
    cover_limit: float = Field(
        0.3, ge=0, le=1, description="a box that covers more than this share of another object is left alone"
    )
    padding: float = Field(
        0, ge=0, lt=1, description="share of the picture's width and height by which a box is painted wider and higher"
    )


class Replace:
    """One target per chosen box; a box whose repainting would hide another object is barred."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False

    class Settings(WindowSettings, ReplaceSettings):
        """The prompt is the caption's where none is set, and "a {category}" for painters that read no phrases."""

        category: str | list[str] | None = Field(
            None,
            description="category that the new objects have, or several, of which each takes one by its hash; none: "
            "that of the old ones",
        )

        @property
        def paints_own(self) -> bool:
            return not self.category

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, picture: LabelledPicture) -> Draft:
        """Targets for the boxes with the smallest hashes, up to max_boxes, in the order of the annotations."""
        boxes, barred = replaceable(picture, self.settings)
        targets = tuple(self._target(box, picture) for box in boxes)
        keys = {box.key for box in boxes}
        keeps = tuple(box.key for box in picture.boxes if box.key not in keys)
        return Draft(targets, keeps, barred, "" if targets else nothing(picture))

    def _target(self, box: Box, picture: LabelledPicture) -> Target:
        new = self._category(box, picture)
        prompt, plain = new_object(self.settings, new, picture, box)
        return Target(
            region=(padded(box.xyxy, picture.width, picture.height, self.settings.padding),),
            boxes=(box.xyxy,),
            phrases=(new or box.category,),
            prompt=prompt,
            plain=plain,
            about=(box.key,),
            redraws=(box.key,),
            category=new,
        )

    def _category(self, box: Box, picture: LabelledPicture) -> str | None:
        """That of the new object; None: the old one's."""
        pool = self.settings.category
        if not isinstance(pool, list):
            return pool
        return min(
            pool, key=lambda name: hash_draw(picture.draws, "category", picture.digest, box.key, name), default=None
        )


def replaceable(picture: LabelledPicture, settings: ReplaceSettings) -> tuple[list[Box], tuple[str, ...]]:
    """The boxes to paint over, in the order of the annotations, and "annotation key: reason" of those left alone."""
    covering = _covering(picture, settings)
    free = [box for box in picture.boxes if box.editable and box.key not in covering]
    barred = tuple(f"{box.key}: covers_other_object" for box in picture.boxes if box.key in covering)
    return chosen(free, picture, "replace", settings.max_boxes), barred


def _covering(picture: LabelledPicture, settings: ReplaceSettings) -> set[str]:
    """Keys of editable boxes that, padded, cover more than the limit of another object."""
    boxes = np.array([box.xyxy for box in picture.boxes])
    found = set()
    for i, box in enumerate(picture.boxes):
        if box.editable and len(boxes) > 1:
            painted = (
                padded(box.xyxy, picture.width, picture.height, settings.padding) if settings.padding else box.xyxy
            )
            shares = covered_xyxy(painted, boxes)
            shares[i] = 0
            if (shares > settings.cover_limit).any():
                found.add(box.key)
    return found
