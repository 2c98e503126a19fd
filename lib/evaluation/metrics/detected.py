"""Layout AP as a member: what a detector finds in the pictures, beside their boxes; the formula stands in layout.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from pydantic import Field

from lib.core.registry import MemberSettings
from lib.evaluation.detectors import detector_of
from lib.evaluation.metrics import Base, Details, Kind, Noted, Number, Seen, Table
from lib.evaluation.metrics.layout import Truth, layout_ap
from lib.records.settings import Choice


@dataclass(frozen=True)
class _Found:
    """Detections as they come back from notes."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


_Box = tuple[float, float, float, float]  # xyxy pixels


class _Note(TypedDict):
    found: tuple[list[_Box], list[float], list[int]]  # boxes, scores, labels
    truth: tuple[list[_Box], list[int], list[bool]]  # boxes, labels, ignored ones
    skipped: dict[str, int]


class CategoryPrecision(Details):
    ap: float | None  # 0 .. 1, None where there is no box to find; see layout.py
    ap50: float | None
    ap75: float | None
    ar: float | None
    boxes: int


class Precision(Details):
    """Of one side, as `layout_ap` gives it."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float | None
    ar_1: float | None
    ar_10: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    by_category: dict[str, CategoryPrecision]
    pictures: int
    boxes: int
    ignored: int
    detections: int


class LayoutDetails(Details):
    detector: str  # its identity
    not_known: list[str]  # categories that it does not know: left out
    generated: Precision
    real: Precision


class Layout(Base):
    """Average precision of a detector's boxes against the labels, by COCO's rules, per size and category."""

    NOTE: ClassVar[Any] = _Note
    MORE: ClassVar[type[Details] | None] = LayoutDetails
    OF: ClassVar[Kind] = "pictures"
    NEEDS: ClassVar[Literal["", "boxes", "captions"]] = "boxes"
    NUMBERS: ClassVar[dict[str, Number]] = {
        "layout_ap": Number(
            "Average precision of a detector on the generated pictures against their labels, 0 to 1: near "
            "that on the real ones is good, far under it labels and pictures disagree. It cannot tell a badly painted "
            "object from a weak detector.",
            "higher",
        ),
        "layout_ap50": Number(
            "The same, where boxes need to agree by half alone: far above layout_ap says that objects are "
            "there, but not quite in their boxes. It knows nothing of looks either.",
            "higher",
            brief=False,
        ),
        "layout_ap_real": Number(
            "The same detector on the real pictures: the most that it can say. Read no further where it is low.",
            "higher",
        ),
        "layout_ap50_real": Number(
            "As layout_ap50, on the real pictures. It is no judgement of the generated ones.",
            "higher",
            brief=False,
        ),
    }

    class Settings(MemberSettings):
        detector: str | Choice = Field(
            "zero-shot", description="transformers, torchvision or zero-shot, or one with its settings"
        )

    @cached_property
    def detector(self) -> Any:
        """Built once; its weights are read at the first picture."""
        chosen = self.settings.detector
        choice = Choice(name=chosen) if isinstance(chosen, str) else chosen
        return detector_of(choice.name or type(self.settings)().detector, choice.values)

    @property
    def identity(self) -> str:
        identity: str = self.detector.identity
        return identity

    def of_picture(self, seen: Seen) -> dict[str, Any]:
        """Detections, and the boxes that they are held against."""
        labels = seen.labels
        numbers = {name: i for i, name in enumerate(seen.names)}
        known = [i for i, name in enumerate(labels.categories) if name in numbers]
        found = self.detector.detect([seen.pixels], list(seen.names))[0]
        return {
            "found": [found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()],
            "truth": [
                labels.boxes[known].tolist(),
                [numbers[labels.categories[i]] for i in known],
                labels.ignore[known].tolist(),
            ],
            "skipped": {"category_unknown": len(labels.categories) - len(known)},
        }

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        knows = [name for name, known in zip(names, self.detector.knows(names), strict=True) if known]
        told: dict[str, Any] = {"detector": self.identity, "not_known": sorted(set(names) - set(knows))}
        numbers: dict[str, float] = {}
        for side, more, noted in (("generated", "", generated), ("real", "_real", real)):
            pairs = [(_truth(note["truth"]), _found(note["found"])) for note in noted.notes]
            truth, found = zip(*pairs, strict=True) if pairs else ((), ())
            told[side] = layout_ap(truth, found, names, only=knows or None)  # none: nothing was noted either
            for name in ("ap", "ap50"):
                if told[side][name] is not None:
                    numbers[f"layout_{name}{more}"] = told[side][name]
        return {**numbers, "layout": told}

    @staticmethod
    def summary(details: LayoutDetails) -> list[str]:
        unknown = ", ".join(details.not_known)
        return [f"the detector does not know {unknown}: left out of layout_ap"] if unknown else []

    @staticmethod
    def tables(details: LayoutDetails) -> list[Table]:
        sides = {"generated": details.generated, "real": details.real}
        sizes = [
            [size, *(getattr(side, f"{name}_{size}") for side in sides.values() for name in ("ap", "ar"))]
            for size in ("small", "medium", "large")
        ]
        measures = ("ap", "ap50", "ar")
        categories = [
            [name, *(getattr(side.by_category[name], measure) for side in sides.values() for measure in measures)]
            for name in details.generated.by_category
        ]
        heads = {some: [f"{name} {side}" for side in sides for name in some] for some in (("ap", "ar"), measures)}
        return [
            Table("found by the detector, by size", ["size", *heads["ap", "ar"]], sizes),
            Table("found by the detector, by category", ["category", *heads[measures]], categories),
        ]


def _truth(told: Sequence[Any]) -> Truth:
    boxes, labels, ignore = told
    return Truth(np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64), np.array(ignore, bool))


def _found(told: Sequence[Any]) -> _Found:
    boxes, scores, labels = told
    return _Found(np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64), np.array(labels, np.int64))
