"""Region precision: each box is cropped with some context and scored against all names; a hit: its label ranks first.

The idea of RegionCLIP (Zhong et al. 2022, arXiv 2112.09106), with any judge. The shares of hits: fidelity.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import msgspec
import numpy as np
from pydantic import Field

from lib.core.checkpoints import ModelRef
from lib.core.geometry import CONTEXT, MIN_SIDE, area_xyxy, clip_xyxy
from lib.core.registry import MemberSettings
from lib.evaluation.metrics import AnnotatedPicture, Base, Details, Kind, Noted, Number, Table
from lib.evaluation.metrics.fidelity import Fidelity, Hits, Judged, compare
from lib.judges import Judge, make_judge, score_boxes


class _Box(TypedDict):
    box: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]  # xyxy pixels
    label: str
    said: str
    share: float


class _Note(TypedDict):
    boxes: list[_Box]
    skipped: dict[str, int]


class RegionDetails(Fidelity):
    skipped: dict[str, dict[str, int]]  # boxes that were not judged: {"real", "generated": {reason: boxes}}
    judge: str  # its identity
    context: float  # share of a box's longer side
    min_side: float  # pixels
    seed: int  # of the bootstrap


class Regions(Base):
    """Which category a judge sees in each box, painted and real."""

    NOTE: ClassVar[Any] = _Note
    VERSION: ClassVar[int] = 1
    MORE: ClassVar[type[Details] | None] = RegionDetails
    OF: ClassVar[Kind] = "pictures"
    NEEDS: ClassVar[Literal["", "boxes", "captions"]] = "boxes"
    NUMBERS: ClassVar[dict[str, Number]] = {
        "fidelity": Number(
            "How far painted boxes show what their labels say, from 0, as if labels were exchanged, to 1, as "
            "well as real boxes: over .7 is good. It cannot tell whether they look real, nor whether boxes are tight.",
            "higher",
            brief=False,
            account=True,
        ),
        "fidelity_interval": Number(
            "Where fidelity would lie for other pictures of the same kinds, 95 times in 100: two runs "
            "whose intervals overlap widely are not told apart. It knows nothing of the judge's own faults.",
            "higher",
            brief=False,
        ),
        "regions_real": Number(
            "Share of real boxes in which the judge sees what the label says: the most that it can say. "
            "Read no further where it is low.",
            "higher",
            "share",
            brief=False,
        ),
        "regions_generated": Number(
            "Share of painted boxes in which the judge sees what the label says: near that of real "
            "boxes is good. It rewards frequent categories, so read fidelity.",
            "higher",
            "share",
            brief=False,
        ),
        "regions_shuffled": Number(
            "The same, had the painted boxes exchanged their labels: what chance and frequent "
            "categories give. It says nothing of the pictures.",
            "lower",
            "share",
            brief=False,
        ),
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
        """A CLIP or a classifier, by the kind of the checkpoint."""
        made: Judge = make_judge(self._given) if isinstance(self._given, ModelRef) else self._given
        return made

    @property
    def identity(self) -> str:
        return self.judge.identity

    def of_picture(self, picture: AnnotatedPicture) -> dict[str, Any]:
        """The judged boxes, and the others by reason: crowds, kept as they were, too small, of an unknown category."""
        labels, (height, width) = picture.labels, picture.pixels.shape[:2]
        xyxy = clip_xyxy(labels.boxes, width, height)
        known = np.array([name in picture.names for name in labels.categories], bool)
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
        labelled = [labels.categories[i] for i in np.flatnonzero(left)]
        if len(picture.names) < 2 or not labelled:
            return {"boxes": [], "skipped": skipped}
        shares = score_boxes(self.judge, picture.pixels, xyxy[left], picture.names, self.settings.context)
        rows = zip(xyxy[left].tolist(), labelled, shares.argmax(axis=1).tolist(), shares, strict=True)
        judged_boxes = [
            {"box": box, "label": name, "said": picture.names[best], "share": float(row[picture.names.index(name)])}
            for box, name, best, row in rows
        ]
        return {"boxes": judged_boxes, "skipped": skipped}

    def accepts(self, note: Any, names: Sequence[str]) -> bool:
        """Are its boxes of these names?"""
        return all(box["label"] in names and box["said"] in names for box in note["boxes"])

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        """Its defined numbers; all of RegionDetails under "regions"."""
        details = self.details(real, generated, names, seed)
        numbers = {"fidelity": details.fidelity, "fidelity_interval": details.interval}
        numbers |= {f"regions_{name}": getattr(details, name) for name in ("real", "generated", "shuffled")}
        shown = {name: value for name, value in numbers.items() if value is not None}
        return {**shown, "regions": details.model_dump()}

    def details(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> RegionDetails:
        """The results of the judged boxes of both sides."""
        found = compare(judged(real.notes, names), judged(generated.notes, names), names, seed)
        few = [] if len(names) > 1 else [f"{len(names)} categories: the judge has nothing to choose from"]
        sides = {"real": real, "generated": generated}
        return RegionDetails(
            **dict(found) | {"notes": few + found.notes},
            skipped={name: dict(sorted(skipped_of(side).items())) for name, side in sides.items()},
            judge=self.identity,
            context=self.settings.context,
            min_side=self.settings.min_side,
            seed=seed,
        )

    @staticmethod
    def summary(details: RegionDetails) -> list[str]:
        """The shares of hits, fidelity with its interval, categories and sizes, and the notes."""
        low_high = details.interval
        beside = f"   {low_high[0]:.3f} to {low_high[1]:.3f} (95 %)" if low_high else ""
        return [
            f"{details.n_real} real boxes in {details.pictures_real} pictures, {details.n_generated} generated in "
            f"{details.pictures_generated}; judge: {details.judge}",
            *(f"{name:<10}{_text(getattr(details, name))}" for name in ("real", "generated", "shuffled")),
            f"{'fidelity':<10}{_text(details.fidelity)}{beside}",
            "",
            *_lines("category", details.by_category),
            "",
            *_lines("size", details.by_size),
            *(f"note: {note}" for note in details.notes),
            *_not_judged(details),
        ]

    @staticmethod
    def tables(details: RegionDetails) -> list[Table]:
        return [
            Table(f"boxes recognised, by {kind}", [kind, "generated", "real"], _shares(groups))
            for kind, groups in (("category", details.by_category), ("size", details.by_size))
        ]

    @staticmethod
    def notes(details: RegionDetails) -> list[str]:
        return [*details.notes, *_not_judged(details)]


def _not_judged(details: RegionDetails) -> list[str]:
    reasons = {side: ", ".join(f"{reason} {n}" for reason, n in some.items()) for side, some in details.skipped.items()}
    return [f"{side} boxes not judged: {text}" for side, text in reasons.items() if text]


def _shares(groups: Mapping[str, Hits]) -> list[list[str]]:
    """Rows of a report."""
    return [[name, *(_share(*hits.of(side)) for side in ("generated", "real"))] for name, hits in groups.items()]


def _share(hits: int, boxes: int) -> str:
    return f"{hits / boxes:.3f} of {boxes}" if boxes else "no boxes"


def _lines(title: str, groups: Mapping[str, Hits]) -> list[str]:
    """Rows of a summary."""
    width = max(len(title), *(len(name) for name in groups))
    lines = [f"{title:<{width}}  {'generated':>9} {'boxes':>7}  {'real':>9} {'boxes':>7}"]
    for name, hits in groups.items():
        cells = (f"{_text(hits.share(side))} {hits.of(side)[1]:>7}" for side in ("generated", "real"))
        lines.append(f"{name:<{width}}  {'  '.join(cells)}")
    return lines


def _text(share: float | None) -> str:
    return f"{'–':>9}" if share is None else f"{share:9.3f}"


def judged(notes: Sequence[dict[str, Any]], names: Sequence[str]) -> Judged:
    """The boxes of one side's notes; pictures without any do not count."""
    by_picture = [note["boxes"] for note in notes if note["boxes"]]
    boxes = [box for some in by_picture for box in some]
    numbers = {name: i for i, name in enumerate(names)}
    return Judged(
        np.repeat(np.arange(len(by_picture)), [len(some) for some in by_picture]).astype(np.int64),
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
