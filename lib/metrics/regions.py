"""Region precision: each box is cropped with some context and scored against all names; a hit where its own is first.

The idea of RegionCLIP (Zhong et al. 2022, arXiv 2112.09106), with any judge. The shares of hits: fidelity.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import msgspec
import numpy as np
from pydantic import Field

from lib.geometry import CONTEXT, MIN_SIDE, area_xyxy, clip_xyxy
from lib.judges import Judge, make_judge
from lib.metrics import Base, Kind, Noted, Seen
from lib.metrics.fidelity import Judged, measure
from lib.models import ModelRef
from lib.regions import crop_region
from lib.registry import MemberSettings


class _Told(TypedDict):
    box: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]  # xyxy pixels
    label: str
    said: str
    share: float


class _Note(TypedDict):
    boxes: list[_Told]
    skipped: dict[str, int]


class Regions(Base):
    """Which category a judge sees in each box, beside what it says of real boxes."""

    NOTE: ClassVar[Any] = _Note
    VERSION: ClassVar[int] = 1
    OF: ClassVar[Kind] = "pictures"
    NEEDS: ClassVar[Literal["", "boxes", "captions"]] = "boxes"
    ABOUT: ClassVar[dict[str, str]] = {
        "fidelity": "How far painted boxes show what their labels say, from 0, as if labels were exchanged, to 1, as "
        "well as real boxes: over .7 is good. It cannot tell whether they look real, nor whether boxes are tight.",
        "fidelity_interval": "Where fidelity would lie for other pictures of the same kinds, 95 times in 100: two runs "
        "whose intervals overlap widely are not told apart. It knows nothing of the judge's own faults.",
        "regions_real": "Share of real boxes in which the judge sees what the label says: the most that it can say. "
        "Read no further where it is low.",
        "regions_generated": "Share of painted boxes in which the judge sees what the label says: near that of real "
        "boxes is good. It rewards frequent categories, so read fidelity.",
        "regions_shuffled": "The same, had the painted boxes exchanged their labels: what chance and frequent "
        "categories give. It says nothing of the pictures.",
    }

    class Settings(MemberSettings):
        model: str = Field("mini:clip", description="the judge, CLIP or classifier: mini:clip, a folder or a hub id")
        min_side: float = Field(
            MIN_SIDE, ge=0, validate_default=True, description="boxes with a shorter visible side, pixels, do not count"
        )
        context: float = Field(CONTEXT, ge=0, description="share of a box's longer side that is shown around it")

    def __init__(self, settings: Any, model: ModelRef | Judge) -> None:
        super().__init__(settings)
        self._given = model

    @cached_property
    def judge(self) -> Judge:
        """A CLIP or a classifier, as the checkpoint has it."""
        made: Judge = make_judge(self._given) if isinstance(self._given, ModelRef) else self._given
        return made

    @property
    def identity(self) -> str:
        return self.judge.identity

    def of_picture(self, seen: Seen) -> dict[str, Any]:
        """The judged boxes, and the others by reason: crowds, kept as they were, too small, of a strange category."""
        labels, (height, width) = seen.labels, seen.pixels.shape[:2]
        xyxy = clip_xyxy(labels.boxes, width, height)
        known = np.array([name in seen.names for name in labels.categories], bool)
        sides = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf)
        faults = {
            "crowd": labels.ignore,
            "category_unknown": ~known,
            "not_painted": ~labels.painted,
            "box_too_small": (sides < self.settings.min_side) | (sides <= 0),
        }
        left, skipped = np.ones(len(xyxy), bool), {}
        for reason, found in faults.items():
            skipped[reason] = int((left & found).sum())
            left &= ~found
        own = [labels.categories[i] for i in np.flatnonzero(left)]
        if len(seen.names) < 2 or not own:
            return {"boxes": [], "skipped": skipped}
        crops = [crop_region(seen.pixels, box, self.judge.size, self.settings.context) for box in xyxy[left].tolist()]
        shares = self.judge.score(crops, seen.names)
        rows = zip(xyxy[left].tolist(), own, shares.argmax(axis=1).tolist(), shares, strict=True)
        told = [
            {"box": box, "label": name, "said": seen.names[best], "share": float(row[seen.names.index(name)])}
            for box, name, best, row in rows
        ]
        return {"boxes": told, "skipped": skipped}

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        """`measure`'s values; all of them under "regions"."""
        sides = {"real": real, "generated": generated}
        told = measure(judged(real.notes, names), judged(generated.notes, names), names, seed)
        if len(names) < 2:
            told["notes"].insert(0, f"{len(names)} categories: the judge has nothing to choose from")
        skipped = {name: dict(sorted(skipped_of(side).items())) for name, side in sides.items()}
        more = {"judge": self.identity, "context": self.settings.context, "min_side": self.settings.min_side}
        numbers = {"fidelity": told["fidelity"], "fidelity_interval": told["interval"]}
        numbers |= {f"regions_{name}": told[name] for name in ("real", "generated", "shuffled")}
        shown = {name: value for name, value in numbers.items() if value is not None}
        return {**shown, "regions": told | {"skipped": skipped, **more, "seed": seed}}


def judged(notes: Sequence[dict[str, Any]], names: Sequence[str]) -> Judged:
    """The boxes of one side's notes; pictures without any do not count."""
    told = [note["boxes"] for note in notes if note["boxes"]]
    boxes = [box for own in told for box in own]
    numbers = {name: i for i, name in enumerate(names)}
    return Judged(
        np.repeat(np.arange(len(told)), [len(own) for own in told]).astype(np.int64),
        np.array([numbers[box["label"]] for box in boxes], np.int64),
        np.array([numbers[box["said"]] for box in boxes], np.int64),
        area_xyxy(np.array([box["box"] for box in boxes], np.float64).reshape(-1, 4)),
    )


def skipped_of(side: Noted) -> Counter[str]:
    """Boxes of a side that were not judged, by reason."""
    total = Counter(side.skipped)
    for note in side.notes:
        total.update(note["skipped"])
    return +total
