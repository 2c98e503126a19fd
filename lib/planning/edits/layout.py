"""layout: a new picture for the same boxes, for boxes near them, or for a new layout."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lib.planning.edits import Draft, EditSettings, LabelledPicture, Target, prompt_of
from lib.planning.layouts import PlacingSettings, jittered, sampled
from lib.records.requests import XYXY


class Layout:
    """Everything is new; only the editable boxes stay, or those sampled, each with a newly painted object."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = True

    class Settings(EditSettings, PlacingSettings):
        """The prompt is the caption's where none is set, and the objects' names where they are sampled.

        Sampled layouts need no boxes in the picture: it gives its size alone, and `max_overlap`, `min_side` and
        `tries` say where its new objects may stand.
        """

        layouts: Literal["data", "jittered", "sampled"] = Field(
            "data",
            description="data: the picture's own boxes; jittered: each moved and scaled a little; sampled: a new "
            "layout, as many objects of as many kinds as a random picture of the data set has, at places of others",
        )
        shift: float = Field(0.1, ge=0, le=1, description="jittered: by how much of its sides a box moves at most")
        scale: float = Field(0.1, ge=0, lt=1, description="jittered: by how much of its sides a box grows or shrinks")
        max_objects: int | None = Field(
            None, ge=1, description="sampled: no more objects in a picture, as few models take any number; none: all"
        )

        @property
        def needs_places(self) -> bool:
            return self.layouts == "sampled"

        @property
        def needs_mixes(self) -> bool:
            return self.layouts == "sampled"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, picture: LabelledPicture) -> Draft:
        """One target over the whole frame, all boxes in it: editable ones in the order of the annotations."""
        return self._sampled(picture) if self.settings.layouts == "sampled" else self._from_boxes(picture)

    def _from_boxes(self, picture: LabelledPicture) -> Draft:
        settings, boxes = self.settings, [box for box in picture.boxes if box.editable]
        if not boxes:
            return Draft((), (), reason="no_boxes_to_edit")
        phrases = tuple(box.category for box in boxes)
        keys, listing = tuple(box.key for box in boxes), ", ".join(phrases)
        moves = settings.layouts == "jittered"
        target = Target(
            region=((0, 0, picture.width, picture.height),),
            boxes=tuple(jittered(box, picture, settings.shift, settings.scale) if moves else box.xyxy for box in boxes),
            phrases=phrases,
            prompt=prompt_of(settings, picture, ",".join(keys), listing, picture.prompt or listing),
            about=keys,
            redraws=keys,
            moves=moves,
        )
        return Draft((target,), keeps=())

    def _sampled(self, picture: LabelledPicture) -> Draft:
        objects, barred = sampled(picture, self.settings, self.settings.max_objects)
        if not objects:
            return Draft((), (), tuple(barred), "no_free_place" if barred else "no_examples")
        phrases, places = tuple(name for name, _ in objects), tuple(box for _, box in objects)
        boxes: tuple[XYXY, ...] = places
        listing = ", ".join(phrases)
        target = Target(
            region=((0, 0, picture.width, picture.height),),
            boxes=boxes,
            phrases=phrases,
            prompt=prompt_of(self.settings, picture, "sampled", listing, listing),
            about=(),
            role="sampled",
            adds=places,
            kinds=phrases,
        )
        return Draft((target,), (), tuple(barred))
