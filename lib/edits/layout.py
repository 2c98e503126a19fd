"""layout: a new picture for the same boxes (S3's generation)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from lib.edits import Draft, Scene, Target
from lib.registry import MemberSettings


class Layout:
    """Everything is new; only the editable boxes stay, each with a newly painted object."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = True

    class Settings(MemberSettings):
        negative_prompt: str = Field("", description="what the painter should keep away from")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, scene: Scene) -> Draft:
        """One target over the whole frame, all editable boxes in it, in the order of the annotations."""
        boxes = [box for box in scene.boxes if box.editable]
        if not boxes:
            return Draft((), (), reason="no_boxes_to_edit")
        phrases = tuple(box.category for box in boxes)
        target = Target(
            region=((0, 0, scene.width, scene.height),),
            boxes=tuple(box.xyxy for box in boxes),
            phrases=phrases,
            prompt=scene.prompt or ", ".join(phrases),
            redraws=tuple(box.key for box in boxes),
        )
        return Draft((target,), keeps=())
