"""mask: new content in given masks, those that the annotations have (S1's triples, or any set with masks)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from lib.canvas import encode_rle
from lib.edits import Box, Draft, Scene, Target, WindowSettings, chosen, nothing, prompt_of
from lib.labels import annotation_mask


class Mask:
    """One target per chosen annotation that has a mask; box and mask stay its label."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False
    NEEDS_BOXES: ClassVar[bool] = True
    NEEDS_PLACES: ClassVar[bool] = False

    class Settings(WindowSettings):
        """The prompt is the caption's where none is set."""

        max_boxes: int | None = Field(None, ge=1, description="at most so many masks of a picture; none: all")
        category: str | None = Field(None, description="category that the new objects have; none: that of the old ones")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, scene: Scene) -> Draft:
        """Targets in the order of the annotations; one without a mask, or with an empty one, is left alone."""
        editable = [box for box in scene.boxes if box.editable]
        read = ((box.key, annotation_mask(box.record, (scene.height, scene.width))) for box in editable)
        masks = {key: mask for key, mask in read if mask is not None and mask.any()}
        able = [box for box in editable if box.key in masks]
        boxes = chosen(able, scene, "mask", self.settings.max_boxes)
        targets = tuple(self._target(box, masks[box.key], scene) for box in boxes)
        barred = tuple(f"{box.key}: no_mask" for box in editable if box not in able)
        keys = {box.key for box in boxes}
        keeps = tuple(box.key for box in scene.boxes if box.key not in keys)
        return Draft(targets, keeps, barred, "" if targets else nothing(scene))

    def _target(self, box: Box, mask: np.ndarray, scene: Scene) -> Target:
        category = self.settings.category or box.category
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        region = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        prompt = prompt_of(self.settings, scene, box.key, category, scene.prompt or f"a {category}")
        return Target(
            region=(region,),
            boxes=(region,),
            phrases=(prompt if self.settings.prompt else category,),
            prompt=prompt,
            about=(box.key,),
            redraws=(box.key,),
            category=self.settings.category,
            mask=encode_rle(mask),
        )
