"""insert: new objects in free places, of sizes and heights that the data set's own objects have."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from lib.edits import Draft, Scene, Target, WindowSettings, prompt_of
from lib.geometry import IntBox, covered_xyxy
from lib.labels import VisibilitySettings
from lib.requests import draw


class Insert:
    """Takes the size and height in the frame of a random object of the category, and looks for room at that height.

    The height is kept since in most pictures it goes with the size: what is far away is small and high up.
    """

    VERSION: ClassVar[int] = 1
    WHOLE: ClassVar[bool] = False
    NEEDS_BOXES: ClassVar[bool] = False
    NEEDS_PLACES: ClassVar[bool] = True

    class Settings(WindowSettings, VisibilitySettings):
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
        targets = []
        for number in range(settings.count):
            category = self._category(scene, number)
            place = self._place(scene, category, number, np.array(taken).reshape(-1, 4)) if category else None
            if category is None or place is None:
                continue
            taken.append(place)
            prompt = prompt_of(settings, scene, f"insert {number}", category, f"a {category}")
            target = Target(
                region=(place,),
                boxes=(place,),
                phrases=(category,),
                prompt=prompt,
                about=(),
                role=f"insert {number}",
                adds=(place,),
                category=category,
            )
            targets.append(target)
        keeps = tuple(box.key for box in scene.boxes)
        known = self._category(scene, 0) is not None
        reason = "" if targets else "no_free_place" if known else "no_examples"
        return Draft(tuple(targets), keeps, reason=reason)

    def _category(self, scene: Scene, number: int) -> str | None:
        asked = self.settings.category
        pool = sorted(scene.places) if asked is None else [asked] if isinstance(asked, str) else asked
        known = [name for name in pool if name in scene.places]
        return min(known, key=lambda name: draw(scene.draws, "insert", scene.digest, number, name), default=None)

    def _place(self, scene: Scene, category: str, number: int, taken: np.ndarray) -> IntBox | None:
        """The first of the tries that has room, in an order that the seed decides."""
        settings, places = self.settings, scene.places[category]
        seed = draw(scene.draws, "place", scene.digest, category, number)
        random = np.random.Generator(np.random.PCG64(seed))
        sizes = places[random.integers(0, len(places), settings.tries)] * scene.height
        bottoms, wide, high = np.rint(sizes).astype(int).T
        lefts = np.floor(random.random(settings.tries) * (scene.width - wide + 1)).astype(int)
        for left, bottom, w, h in zip(lefts.tolist(), bottoms.tolist(), wide.tolist(), high.tolist(), strict=True):
            place = (left, bottom - h, left + w, bottom)
            inside = left >= 0 and bottom >= h and w <= scene.width and bottom <= scene.height
            if inside and min(w, h) >= settings.min_side and _free(place, taken, settings.max_overlap):
                return place
        return None


def _free(place: IntBox, taken: np.ndarray, limit: float) -> bool:
    here = np.array(place, dtype=np.float64)
    others = [covered_xyxy(box, here)[0] for box in taken]
    return bool((covered_xyxy(place, taken) <= limit).all()) and all(share <= limit for share in others)
