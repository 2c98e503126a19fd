"""replace: new content in chosen boxes, the rest of the picture kept (S2, and S3's inpainting)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from lib.edits import Box, Draft, Scene, Target
from lib.geometry import covered_xyxy, outer_pixels
from lib.registry import MemberSettings
from lib.requests import draw


class Replace:
    """One target per chosen box; a box whose repainting would hide another object is barred."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False

    class Settings(MemberSettings):
        max_boxes: int | None = Field(None, ge=1, description="at most so many boxes of a picture; none: all")
        cover_limit: float = Field(
            0.3, ge=0, le=1, description="a box that covers more than this share of another object is left alone"
        )
        prompt: str | None = Field(
            None, description="prompt for every target, {category} filled in; none: the caption's"
        )
        negative_prompt: str = Field("", description="what the painter should keep away from")
        context: float = Field(2.0, ge=1, description="window side as a multiple of the box's longer side")
        min_window: int = Field(
            256, ge=1, description="least window side, pixels of the picture, where the frame allows"
        )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, scene: Scene) -> Draft:
        """Targets for the boxes with the smallest hashes, up to max_boxes, in the order of the annotations."""
        covering = self._covering(scene)
        barred = {box.key: f"{box.key}: covers_other_object" for box in scene.boxes if box.key in covering}
        free = [box for box in scene.boxes if box.editable and box.key not in barred]
        chosen = {box.key for box in self._chosen(free, scene)}
        targets = tuple(self._target(box, scene) for box in free if box.key in chosen)
        some = any(box.editable for box in scene.boxes)
        reason = "" if targets else ("all_boxes_barred" if some else "no_boxes_to_edit")
        keeps = tuple(box.key for box in scene.boxes if box.key not in chosen)
        return Draft(targets, keeps, tuple(barred.values()), reason)

    def _covering(self, scene: Scene) -> set[str]:
        """Keys of editable boxes that cover more than the limit of another object."""
        boxes = np.array([box.xyxy for box in scene.boxes])
        found = set()
        for i, box in enumerate(scene.boxes):
            if box.editable and len(boxes) > 1:
                shares = covered_xyxy(box.xyxy, boxes)
                shares[i] = 0
                if (shares > self.settings.cover_limit).any():
                    found.add(box.key)
        return found

    def _chosen(self, boxes: list[Box], scene: Scene) -> list[Box]:
        ranked = sorted(boxes, key=lambda box: draw(scene.draws, "replace", scene.digest, box.key))
        return ranked[: self.settings.max_boxes]

    def _target(self, box: Box, scene: Scene) -> Target:
        prompt = self.settings.prompt.replace("{category}", box.category) if self.settings.prompt else scene.prompt
        return Target(
            region=(outer_pixels(box.xyxy),),
            boxes=(box.xyxy,),
            phrases=(box.category,),
            prompt=prompt or f"a {box.category}",
            redraws=(box.key,),
        )
