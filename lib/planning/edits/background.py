"""background: everything but the objects is painted anew; every label stays as it is."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from lib.core.geometry import outer_pixels
from lib.core.words import plural, spoken
from lib.planning.edits import Draft, EditSettings, LabelledPicture, Target, prompt_of

NEUTRAL = "an empty place, plain background"


class Background:
    """One target over the whole frame, the boxes of all objects left out."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = True

    class Settings(EditSettings):
        """The prompt is a neutral one where none is set: one that names the objects has them painted once more, where
        no label says so. {caption} is filled in without its parts that name one of the picture's categories, as they
        are called or in their plural."""

        margin: int = Field(8, ge=0, description="pixels around each box that stay too, the composite's reach apart")

        @property
        def paints_own(self) -> bool:
            return False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, picture: LabelledPicture) -> Draft:
        """All boxes stay, whether they may be edited or not."""
        if not any(box.editable for box in picture.boxes):
            return Draft((), (), reason="no_boxes_to_edit")
        keys, frame = tuple(box.key for box in picture.boxes), (0, 0, picture.width, picture.height)
        grow = self.settings.margin
        outer = [outer_pixels(box.xyxy) for box in picture.boxes]
        holes = tuple((x0 - grow, y0 - grow, x1 + grow, y1 + grow) for x0, y0, x1, y1 in outer)
        bare = LabelledPicture(
            picture.image_key,
            picture.digest,
            picture.width,
            picture.height,
            self._plain(picture),
            picture.draws,
            picture.boxes,
        )
        prompt = prompt_of(self.settings, bare, "background", "", NEUTRAL)
        return Draft((Target(region=(frame,), boxes=(), phrases=(), prompt=prompt, about=keys, holes=holes),), keys)

    @staticmethod
    def _plain(picture: LabelledPicture) -> str:
        return without_objects(picture.prompt, sorted({box.category for box in picture.boxes}))


def without_objects(caption: str, categories: list[str]) -> str:
    """A caption without its parts, between commas and little words, that name one of the categories; it may be "".

    "a forklift in a warehouse with two pallets" without forklift and pallet → "a warehouse".
    """
    parts = re.split(r"\s*,\s*|\s+(?=(?:and|with|in|on|at|near|next to|beside|under|behind|of)\s)", caption)
    words = {spoken(name).lower() for name in categories if name.strip()}
    nouns = [re.escape(word) for word in sorted(words | {plural(word) for word in words})]
    named = re.compile(rf"(?<!\w)({'|'.join(nouns)})(s|es)?(?!\w)") if nouns else None
    kept = [part for part in parts if part and not (named and named.search(part.replace("_", " ").lower()))]
    text = " ".join(kept)
    return re.sub(r"^(and|with|in|on|at|near|next to|beside|under|behind|of)\s+", "", text).strip()
