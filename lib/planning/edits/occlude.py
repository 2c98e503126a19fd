"""occlude: something in front of a part of chosen boxes. refine: the object painted anew first, then occluded."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from lib.core.geometry import IntBox, outer_pixels, padded
from lib.core.keys import hash_draw
from lib.planning.edits import Box, Draft, LabelledPicture, Target, WindowSettings, chosen, nothing, prompt_of
from lib.planning.edits.replace import ReplaceSettings, replaceable

Share = Annotated[float, Field(ge=0, le=1)]
STACK = "a stack of boxes"


class OccluderSettings(WindowSettings):
    """Where the occluder stands and what it is. The ranges' defaults are those of LOCO occlusion inpainting."""

    left: tuple[Share, Share] = Field((0.1, 0.4), description="range of its left edge, as a share of the box's width")
    top: tuple[Share, Share] = Field((0.4, 0.7), description="range of its top edge, as a share of the box's height")
    right: tuple[Share, Share] = Field((1, 1), description="range of its right edge")
    bottom: tuple[Share, Share] = Field((1, 1), description="range of its bottom edge")
    occluder_category: str | None = Field(
        None, description="the occluder's category, which must be one of the data set's, to give it a label"
    )

    @model_validator(mode="after")
    def _ordered(self) -> OccluderSettings:
        for low, high in (("left", "right"), ("top", "bottom")):
            first, second = getattr(self, low), getattr(self, high)
            if not first[0] <= first[1] < second[0] <= second[1]:
                raise ValueError(f"{low} {first}, {high} {second}: expected ascending ranges, the second further on")
        return self


class Occlude:
    """One target per chosen box: a part of the box, painted with something else."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False

    class Settings(OccluderSettings):
        """The prompt is the occluder's category or "a stack of boxes" where none is set."""

        max_boxes: int | None = Field(None, ge=1, description="at most so many boxes of a picture; none: all")

        @property
        def paints_own(self) -> bool:
            return False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, picture: LabelledPicture) -> Draft:
        """An occluder for each of the boxes with the smallest hashes, up to max_boxes."""
        editable = [box for box in picture.boxes if box.editable]
        boxes = chosen(editable, picture, "occlude", self.settings.max_boxes)
        targets = tuple(occluder(box, picture, self.settings) for box in boxes)
        return Draft(targets, tuple(box.key for box in picture.boxes), reason="" if targets else nothing(picture))


class Refine:
    """First every chosen object painted anew in its whole box, then an occluder before each: two passes a box."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False

    class Settings(OccluderSettings, ReplaceSettings):
        """`prompt` is the occluder's, as for occlude."""

        object_prompt: str = Field("a {category}", min_length=1, description="prompt for the object itself")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, picture: LabelledPicture) -> Draft:
        """All objects first, so that none is painted over another's occluder."""
        boxes, barred = replaceable(picture, self.settings)
        objects = [self._object(box, picture) for box in boxes]
        targets = (*objects, *(occluder(box, picture, self.settings) for box in boxes))
        keys = {box.key for box in boxes}
        keeps = tuple(box.key for box in picture.boxes if box.key not in keys)
        return Draft(targets, keeps, barred, "" if targets else nothing(picture))

    def _object(self, box: Box, picture: LabelledPicture) -> Target:
        text = self.settings.object_prompt.replace("{category}", box.category).replace("{caption}", picture.prompt)
        return Target(
            region=(padded(box.xyxy, picture.width, picture.height, self.settings.padding),),
            boxes=(box.xyxy,),
            phrases=(box.category,),
            prompt=text,
            about=(box.key,),
            role="object",
            redraws=(box.key,),
        )


def occluder(box: Box, picture: LabelledPicture, settings: OccluderSettings) -> Target:
    """The target that puts an occluder before one box."""
    place = _place(box, picture, settings)
    category = settings.occluder_category
    prompt = prompt_of(settings, picture, box.key, category or box.category, f"a {category}" if category else STACK)
    return Target(
        region=(place,),
        boxes=(place,),
        phrases=(prompt,),
        prompt=prompt,
        about=(box.key,),
        role="occluder",
        adds=(place,),
        category=category,
    )


def _place(box: Box, picture: LabelledPicture, settings: OccluderSettings) -> IntBox:
    """Each edge at a uniform share of the box's side within its range, to whole pixels outwards."""
    x0, y0, x1, y1 = box.xyxy

    def edge(name: str, start: float, length: float) -> float:
        low, high = getattr(settings, name)
        share = hash_draw(picture.draws, "occlude", picture.digest, box.key, name) / 2**63
        return float(start + length * (low + (high - low) * share))

    wide, high = x1 - x0, y1 - y0
    left, right = edge("left", x0, wide), edge("right", x0, wide)
    return outer_pixels((left, edge("top", y0, high), right, edge("bottom", y0, high)))
