"""insert: new objects in free places, of sizes and heights that the data set's objects have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import ClassVar

from pydantic import Field

from lib.core.keys import hash_draw
from lib.planning.edits import Draft, LabelledPicture, Target, WindowSettings, prompt_of
from lib.planning.layouts import PlacingSettings, free_place
from lib.records.requests import XYXY


class Insert:
    """Takes the size and height in the frame of a random object of the category, and looks for room at that height."""

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False

    class Settings(WindowSettings, PlacingSettings):
        """The prompt is "a {category}" where none is set."""

        LATER: ClassVar[frozenset[str]] = frozenset({"present"})

        category: str | list[str] | None = Field(
            None, description="category of the new objects, or several to choose from; none: any of the data set's"
        )
        count: int = Field(1, ge=1, le=100, description="new objects in each picture")
        present: bool = Field(
            False,
            description="only categories that the picture holds already: for defects, whose material tells their kind",
        )

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
        if self.settings.present and not picture.boxes:
            return Draft((), (), (), "no_boxes_to_edit")
        taken = [box.xyxy for box in picture.boxes]
        targets, barred = [], []
        for number in range(self.settings.count):
            categories = self._categories(picture, number)
            target = self._target(picture, number, categories[0], taken) if categories else None
            if target is None:
                barred.append(f"insert {number}: {'no_free_place' if categories else 'no_examples'}")
                continue
            others = (self._target(picture, number, name, taken) for name in categories[1:])
            targets.append(replace(target, instead=tuple(islice(filter(None, others), _INSTEAD))))
            taken.append(target.adds[0])
        keeps = tuple(box.key for box in picture.boxes)
        return Draft(tuple(targets), keeps, tuple(barred), "" if targets else barred[0].rpartition(": ")[2])

    def _target(self, picture: LabelledPicture, number: int, category: str, taken: Sequence[XYXY]) -> Target | None:
        """A new object of a category; None where it has no free place."""
        place, role = free_place(picture, category, number, taken, self.settings), f"insert {number}"
        if place is None:
            return None
        return Target(
            region=(place,),
            boxes=(place,),
            phrases=(category,),
            prompt=prompt_of(self.settings, picture, role, category, f"a {category}"),
            about=(),
            role=role,
            adds=(place,),
            category=category,
        )

    def _categories(self, picture: LabelledPicture, number: int) -> list[str]:
        """Those that may be chosen and have examples, in the order of their hashes."""
        wanted = self.settings.category
        pool = sorted(picture.places) if wanted is None else [wanted] if isinstance(wanted, str) else wanted
        here = {box.category for box in picture.boxes} if self.settings.present else picture.places
        known = [name for name in pool if name in picture.places and name in here]
        return sorted(known, key=lambda name: hash_draw(picture.draws, "insert", picture.digest, number, name))


_INSTEAD = 5  # other categories that are looked at where one fits no place
