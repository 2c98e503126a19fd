"""insert: new objects in free places, of sizes and heights that the data set's objects have."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from lib.core.keys import hash_draw
from lib.planning.edits import Draft, LabelledPicture, Target, WindowSettings, prompt_of
from lib.planning.layouts import PlacingSettings, free_place


class Insert:
    """Takes the size and height in the frame of a random object of the category, and looks for room at that height."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False

    class Settings(WindowSettings, PlacingSettings):
        """The prompt is "a {category}" where none is set."""

        category: str | list[str] | None = Field(
            None, description="category of the new objects, or several to choose from; none: any of the data set's"
        )
        count: int = Field(1, ge=1, le=100, description="new objects in each picture")

        @property
        def needs_places(self) -> bool:
            return True

        @property
        def paints_own(self) -> bool:
            return self.category is None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, picture: LabelledPicture) -> Draft:
        """Up to `count` targets, each clear of the picture's objects and of those before it."""
        settings = self.settings
        taken = [box.xyxy for box in picture.boxes]
        targets, barred = [], []
        for number in range(settings.count):
            category, role = self._category(picture, number), f"insert {number}"
            place = free_place(picture, category, number, taken, settings) if category else None
            if category is None or place is None:
                barred.append(f"{role}: {'no_free_place' if category else 'no_examples'}")
                continue
            taken.append(place)
            target = Target(
                region=(place,),
                boxes=(place,),
                phrases=(category,),
                prompt=prompt_of(settings, picture, role, category, f"a {category}"),
                about=(),
                role=role,
                adds=(place,),
                category=category,
            )
            targets.append(target)
        keeps = tuple(box.key for box in picture.boxes)
        return Draft(tuple(targets), keeps, tuple(barred), "" if targets else barred[0].rpartition(": ")[2])

    def _category(self, picture: LabelledPicture, number: int) -> str | None:
        wanted = self.settings.category
        pool = sorted(picture.places) if wanted is None else [wanted] if isinstance(wanted, str) else wanted
        known = [name for name in pool if name in picture.places]
        return min(
            known, key=lambda name: hash_draw(picture.draws, "insert", picture.digest, number, name), default=None
        )
