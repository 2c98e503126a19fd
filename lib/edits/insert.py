"""insert: new objects in free places, of sizes and heights that the data set's own objects have."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from lib.edits import Draft, Scene, Target, WindowSettings, prompt_of
from lib.geometry import IntBox, most_shared
from lib.requests import draw


class Insert:
    """Takes the size and height in the frame of a random object of the category, and looks for room at that height.

    The height is kept since in most pictures it goes with the size: what is far away is small and high up.
    """

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False
    NEEDS_PLACES: ClassVar[bool] = True

    class Settings(WindowSettings):
        """The prompt is "a {category}" where none is set."""

        category: str | list[str] | None = Field(
            None, description="category of the new objects, or several to choose from; none: any of the data set's"
        )
        count: int = Field(1, ge=1, le=100, description="new objects in each picture")
        max_overlap: float = Field(
            0.1, ge=0, le=1, description="share of a new object, and of any other, that may lie within the other"
        )
        min_side: int = Field(16, ge=1, description="new objects have no shorter side, pixels")
        tries: int = Field(100, ge=1, le=10_000, description="places looked at for each")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def draft(self, scene: Scene) -> Draft:
        """Up to `count` targets, each clear of the picture's objects and of those before it."""
        settings = self.settings
        taken = [box.xyxy for box in scene.boxes]
        targets, barred = [], []
        for number in range(settings.count):
            category, role = self._category(scene, number), f"insert {number}"
            place = self._place(scene, category, number, np.array(taken).reshape(-1, 4)) if category else None
            if category is None or place is None:
                barred.append(f"{role}: {'no_free_place' if category else 'no_examples'}")
                continue
            taken.append(place)
            target = Target(
                region=(place,),
                boxes=(place,),
                phrases=(category,),
                prompt=prompt_of(settings, scene, role, category, f"a {category}"),
                about=(),
                role=role,
                adds=(place,),
                category=category,
            )
            targets.append(target)
        keeps = tuple(box.key for box in scene.boxes)
        return Draft(tuple(targets), keeps, tuple(barred), "" if targets else barred[0].rpartition(": ")[2])

    def _category(self, scene: Scene, number: int) -> str | None:
        asked = self.settings.category
        pool = sorted(scene.places) if asked is None else [asked] if isinstance(asked, str) else asked
        known = [name for name in pool if name in scene.places]
        return min(known, key=lambda name: draw(scene.draws, "insert", scene.digest, number, name), default=None)

    def _place(self, scene: Scene, category: str, number: int, taken: np.ndarray) -> IntBox | None:
        """The first of the tries that has room, in an order that the seed decides."""
        settings, places = self.settings, scene.places[category]
        draws = np.array([draw(scene.draws, "place", scene.digest, category, number, i) for i in range(settings.tries)])
        sizes = places[draws % len(places)] * scene.height
        bottoms, wide, high = np.rint(sizes).astype(np.int64).T
        room = scene.width - wide
        lefts = ((draws >> 31) / 2**32 * (room + 1)).astype(np.int64)
        found = np.stack([lefts, bottoms - high, lefts + wide, bottoms], axis=1)
        fits = (room >= 0) & (found[:, 1] >= 0) & (bottoms <= scene.height)
        fits &= np.minimum(wide, high) >= settings.min_side
        fits &= most_shared(found, taken) <= settings.max_overlap
        if not fits.any():
            return None
        x0, y0, x1, y1 = found[int(fits.argmax())].tolist()
        return x0, y0, x1, y1
