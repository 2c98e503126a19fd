"""Layout AP: are the objects where the labels say? A detector's boxes, measured against those of the labels.

    found = detector_of("zero-shot", {}).detect(pictures, names)     # lib/evaluation/detectors
    truth = [truth_of_coco(annotations, category_ids) for ...]       # one a picture, in the same order
    layout_ap(truth, found, names)["ap"]                             # 0 .. 1, None where there are no boxes

On generated pictures this is the YOLO score of Li et al. 2021 ("LAMA", ICCV), which GLIGEN and its relatives report;
read it beside the same detector's AP on real pictures of the same data set, the most that it can reach. `Layout` is the
member of the family of metrics.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.geometry import area_xyxy, xywh_to_xyxy, xyxy_to_xywh
from lib.core.registry import MemberSettings
from lib.evaluation.detectors import Detections, checkpoint_of, detector_of
from lib.evaluation.metrics import AnnotatedPicture, Base, Details, Kind, Noted, Number, Table
from lib.records.settings import Choice

Floats = NDArray[np.float64]

# Of COCOeval's own settings: where a name's number lies in its arrays.
_SIZES = ("all", "small", "medium", "large")  # of area: up to 32², up to 96² pixels, beyond
_LIMITS = {"1": 0, "10": 1, "100": 2}  # detections a picture and category


@dataclass(frozen=True)
class Truth:
    """The N boxes of one picture."""

    boxes: Floats  # (N, 4) xyxy pixels
    labels: NDArray[np.int64]  # (N,) number of the category's name
    ignore: NDArray[np.bool_]  # (N,) crowds and boxes to leave out: neither finding nor missing one is an error
    area: Floats | None = None  # (N,) pixels², decides the size it counts to; None = that of the box


def truth_of_coco(annotations: Sequence[Mapping[str, Any]], category_ids: Sequence[Any]) -> Truth:
    """From the COCO annotations of one picture: bbox (xywh), category_id, and, where present, area, iscrowd and
    ignore, of which either true makes it ignored. category_ids: in the order of the names.

    Raises ValueError for a category that is not among them.
    """
    numbers = {number: i for i, number in enumerate(category_ids)}
    strange = sorted({str(a["category_id"]) for a in annotations if a["category_id"] not in numbers})
    if strange:
        raise ValueError(f"category ids {', '.join(strange)} are unknown: expected {list(category_ids)}")
    boxes = xywh_to_xyxy(np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4))
    areas = [
        float(box if a.get("area") is None else a["area"]) for a, box in zip(annotations, area_xyxy(boxes), strict=True)
    ]
    return Truth(
        boxes,
        np.array([numbers[a["category_id"]] for a in annotations], np.int64),
        np.array([bool(a.get("iscrowd")) or bool(a.get("ignore")) for a in annotations], bool),
        np.array(areas, np.float64),
    )


def layout_ap(
    truth: Sequence[Truth], found: Sequence[Detections], names: Sequence[str], only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Average precision and recall of detections against boxes, picture by picture, by pycocotools' COCOeval (Lin et
    al. 2014, arXiv 1405.0312); JSON-safe.

    names: the categories that labels number. only: those to measure, in place of all: a detector that does
    not know a category finds none of its boxes.

    ap (mean over IoU .5, .55 … .95 and the categories that have boxes), ap50, ap75 (at that IoU alone), ap_small,
    ap_medium, ap_large, ar (recall, at most 100 detections a picture), ar_1, ar_10, ar_small, ar_medium, ar_large: all
    0 .. 1, None where there is no box to find; by_category ({name: {"ap", "ap50", "ap75", "ar", "boxes"}}); pictures,
    boxes, ignored, detections (counts, of the measured categories).

    Raises ValueError for truth and detections of different numbers of pictures, labels beyond the names, boxes or
    scores that are not finite, or an unknown or no name in `only`.
    """
    chosen = _chosen(names, only)
    _check(truth, found, len(names))
    wanted = [number + 1 for number in chosen]  # COCOeval takes a 0 for "none"
    boxes = [
        _record(i, box, label, area, ignore)
        for i, one in enumerate(truth)
        for box, label, area, ignore in zip(one.boxes, one.labels, _areas(one), one.ignore, strict=True)
        if label + 1 in wanted
    ]
    detections = [
        _record(i, box, label, area, False) | {"score": float(score)}
        for i, one in enumerate(found)
        for box, label, area, score in zip(one.boxes, one.labels, area_xyxy(one.boxes), one.scores, strict=True)
        if label + 1 in wanted
    ]
    precision, recall = _evaluated(boxes, detections, len(truth), wanted)
    left = [box for box in boxes if not box["iscrowd"]]
    counts = Counter(box["category_id"] for box in left)
    return {
        **_overall(precision, recall),
        "by_category": {
            names[number]: _of_category(precision[..., k, :, :], recall[:, k]) | {"boxes": counts[number + 1]}
            for k, number in enumerate(chosen)
        },
        "pictures": len(truth),
        "boxes": len(left),
        "ignored": len(boxes) - len(left),
        "detections": len(detections),
    }


def _overall(precision: Floats, recall: Floats) -> dict[str, float | None]:
    """precision: (IoU, recall, category, size, limit), recall: (IoU, category, size, limit); −1 where undefined."""
    found = {"ap": _mean(precision[..., 0, 2]), **_at_iou(precision[..., 0, 2])}
    found |= {f"ap_{size}": _mean(precision[..., s, 2]) for s, size in enumerate(_SIZES) if s}
    found |= {"ar": _mean(recall[..., 0, 2])}
    found |= {f"ar_{limit}": _mean(recall[..., 0, k]) for limit, k in _LIMITS.items() if limit != "100"}
    return found | {f"ar_{size}": _mean(recall[..., s, 2]) for s, size in enumerate(_SIZES) if s}


def _of_category(precision: Floats, recall: Floats) -> dict[str, float | None]:
    """precision: (IoU, recall, size, limit), recall: (IoU, size, limit), of one category."""
    best = precision[..., 0, 2]
    return {"ap": _mean(best), **_at_iou(best), "ar": _mean(recall[:, 0, 2])}


def _at_iou(precision: Floats) -> dict[str, float | None]:
    """ap50 and ap75 of (IoU, ...): IoU .5, .55 …"""
    return {"ap50": _mean(precision[0]), "ap75": _mean(precision[5])}


def _mean(values: Floats) -> float | None:
    """Over what is defined; None where nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _evaluated(
    boxes: list[dict[str, Any]], detections: list[dict[str, Any]], pictures: int, categories: Sequence[int]
) -> tuple[Floats, Floats]:
    """COCOeval's (precision, recall)."""
    from pycocotools.cocoeval import COCOeval

    with _silence():
        run = COCOeval(_coco(boxes, pictures, categories), _coco(detections, pictures, categories), "bbox")
        run.params.imgIds, run.params.catIds = list(range(pictures)), list(categories)
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def _coco(records: list[dict[str, Any]], pictures: int, categories: Sequence[int]) -> Any:
    """A COCO object in memory. Its ids start at 1, as COCOeval takes a match with id 0 for no match."""
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": number} for number in range(pictures)],
        "categories": [{"id": number} for number in categories],
        "annotations": [record | {"id": i + 1} for i, record in enumerate(records)],
    }
    made.createIndex()
    return made


def _record(picture: int, box: Floats, label: Any, area: Any, ignore: Any) -> dict[str, Any]:
    """As a crowd, which is the one kind that COCOeval never punishes: it overwrites a field `ignore` of others."""
    return {
        "image_id": picture,
        "category_id": int(label) + 1,
        "bbox": xyxy_to_xywh(box).tolist(),
        "area": float(area),
        "iscrowd": int(ignore),
    }


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """pycocotools prints how far it is."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _areas(truth: Truth) -> Floats:
    return area_xyxy(truth.boxes) if truth.area is None else truth.area


def _chosen(names: Sequence[str], only: Sequence[str] | None) -> list[int]:
    """Numbers of the categories to measure."""
    strange = sorted(set(only or ()) - set(names))
    if strange or (only is not None and not only):
        raise ValueError(f"only {', '.join(strange) or 'none'}: expected some of {', '.join(names)}")
    return [i for i, name in enumerate(names) if only is None or name in only]


def _check(truth: Sequence[Truth], found: Sequence[Detections], categories: int) -> None:
    if len(truth) != len(found):
        raise ValueError(f"boxes of {len(truth)} pictures and detections of {len(found)}: expected the same pictures")
    for number, (boxes, detections) in enumerate(zip(truth, found, strict=True)):
        labels = np.concatenate([boxes.labels, detections.labels])
        if len(labels) and (labels.min() < 0 or labels.max() >= categories):
            raise ValueError(f"picture {number}: labels {labels.min()} .. {labels.max()}, of {categories} names")
        if not all(np.isfinite(values).all() for values in (boxes.boxes, detections.boxes, detections.scores)):
            raise ValueError(f"picture {number}: boxes or scores that are not finite")


# --- the member -------------------------------------------------------------------------------------------------------

_Box = tuple[float, float, float, float]  # xyxy pixels


class _Note(TypedDict):
    found: tuple[list[_Box], list[float], list[int]]  # boxes, scores, labels
    truth: tuple[list[_Box], list[int], list[bool]]  # boxes, labels, ignored ones
    skipped: dict[str, int]


class CategoryPrecision(Details):
    ap: float | None  # 0 .. 1, None where there is no box to find; see `layout_ap`
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

        def chosen(self) -> tuple[str, dict[str, Any]]:
            """Name and settings of the detector; without a name it is the usual one."""
            choice = Choice(name=self.detector) if isinstance(self.detector, str) else self.detector
            return choice.name or type(self)().chosen()[0], choice.values

        def needs(self) -> dict[str, str]:
            """The detector's checkpoint."""
            return {"detector: model": checkpoint_of(*self.chosen())}

    @cached_property
    def detector(self) -> Any:
        """Built once; its weights are read at the first picture."""
        return detector_of(*self.settings.chosen())

    @property
    def identity(self) -> str:
        identity: str = self.detector.identity
        return identity

    def of_picture(self, picture: AnnotatedPicture) -> dict[str, Any]:
        """Detections, and the labelled boxes that they are compared with."""
        labels = picture.labels
        numbers = {name: i for i, name in enumerate(picture.names)}
        known = [i for i, name in enumerate(labels.categories) if name in numbers]
        found = self.detector.detect([picture.pixels], list(picture.names))[0]
        return {
            "found": [found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()],
            "truth": [
                labels.boxes[known].tolist(),
                [numbers[labels.categories[i]] for i in known],
                labels.ignore[known].tolist(),
            ],
            "skipped": {"category_unknown": len(labels.categories) - len(known)},
        }

    def accepts(self, note: Any, names: Sequence[str]) -> bool:
        """Are its boxes numbered by these names?"""
        return all(0 <= number < len(names) for number in (*note["found"][2], *note["truth"][1]))

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        knows = [name for name, known in zip(names, self.detector.knows(names), strict=True) if known]
        details: dict[str, Any] = {"detector": self.identity, "not_known": sorted(set(names) - set(knows))}
        numbers: dict[str, float] = {}
        for side, more, noted in (("generated", "", generated), ("real", "_real", real)):
            pairs = [(_truth(*note["truth"]), _found(*note["found"])) for note in noted.notes]
            truth, found = zip(*pairs, strict=True) if pairs else ((), ())
            details[side] = layout_ap(truth, found, names, only=knows or None)  # none: nothing was noted either
            for name in ("ap", "ap50"):
                if details[side][name] is not None:
                    numbers[f"layout_{name}{more}"] = details[side][name]
        return {**numbers, "layout": details}

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


def _truth(boxes: list[_Box], labels: list[int], ignore: list[bool]) -> Truth:
    return Truth(np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64), np.array(ignore, bool))


def _found(boxes: list[_Box], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64), np.array(labels, np.int64)
    )
