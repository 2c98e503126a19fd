"""Does each painted box look like its category in the real boxes of this very data set? own_boxes.py judges.

Beside it: can real and painted boxes be told apart at all (AUC), and are the painted ones as sharp? Here pictures are
noted: each box, and crops of background, described as crops.py does.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.geometry import CONTEXT, MIN_SIDE, clip_xyxy
from lib.core.registry import MemberSettings
from lib.core.vision import crop_region
from lib.evaluation.metrics import AnnotatedPicture, Base, Details, Kind, Noted, Number, Table
from lib.evaluation.metrics.crops import SIDE, describe
from lib.evaluation.metrics.crops import VERSION as CROPS
from lib.evaluation.metrics.own_boxes import ContentDetails, Note, judge_content

BESIDE = 3  # crops of background of a picture, at most


class Content(Base):
    """Painted boxes beside a judge of the data set's own boxes."""

    NOTE: ClassVar[Any] = Note
    VERSION: ClassVar[int] = 1
    MORE: ClassVar[type[Details] | None] = ContentDetails
    OF: ClassVar[Kind] = "pictures"
    NEEDS: ClassVar[Literal["", "boxes", "captions"]] = "boxes"
    LEARNS: ClassVar[bool] = True
    NUMBERS: ClassVar[dict[str, Number]] = {
        "content_ratio": Number(
            "Painted boxes that a judge of this data set's own boxes accepts, as a share of what it accepts of real "
            "ones that it never saw: over .85 is good, under .6 labels and pictures disagree. It cannot tell "
            "fine faults.",
            "higher",
            account=True,
        ),
        "content_interval": Number(
            "Where content_ratio would lie for other pictures of the same kinds, 95 times in 100: wide means that "
            "there are few boxes. It knows nothing of the judge's own faults.",
            "higher",
            brief=False,
        ),
        "content_painted": Number(
            "Share of painted boxes that this judge accepts: near that of real ones is good. It cannot tell how they "
            "differ.",
            "higher",
            "share",
            brief=False,
        ),
        "content_real": Number(
            "Share of real boxes that this judge accepts, each judged without its own picture: the most that it can "
            "say. Read no further where it is low.",
            "higher",
            "share",
            brief=False,
        ),
        "content_shuffled": Number(
            "Share of painted boxes that this judge would accept, had they exchanged their labels. It says nothing of "
            "the pictures; content_painted near it is bad.",
            "lower",
            "share",
            brief=False,
        ),
        "content_auc": Number(
            "How well real and painted boxes are told apart, by a classifier made for it: .5, not at all, is good; "
            "over .7 painted boxes have a look of their own. It cannot tell whether that matters to a detector.",
            "lower",
        ),
        "content_sharpness": Number(
            "Gradient energy in painted boxes as a share of that in real ones of the same categories: .8 to 1.25 is "
            "good, far below is blurred, far above is noise or hard edges. It cannot tell detail from noise.",
            "higher",
        ),
    }

    class Settings(MemberSettings):
        min_side: float = Field(
            MIN_SIDE, ge=0, validate_default=True, description="boxes with a shorter visible side, pixels, do not count"
        )
        context: float = Field(CONTEXT, ge=0, description="share of a box's longer side that is shown around it")

    @property
    def identity(self) -> str:
        return f"crops {CROPS}"

    def of_picture(self, picture: AnnotatedPicture) -> dict[str, Any]:
        """Its boxes and some background, described; and the boxes that are left out, by reason."""
        labels, (height, width) = picture.labels, picture.pixels.shape[:2]
        xyxy = clip_xyxy(labels.boxes, width, height)
        sides = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf)
        faults = {
            "crowd": labels.ignore,
            "not_painted": ~labels.painted,
            "box_too_small": (sides < self.settings.min_side) | (sides <= 0),
        }
        left, skipped = np.ones(len(xyxy), bool), {}
        for reason, found in faults.items():
            skipped[reason] = int((left & found).sum())
            left &= ~found
        crops = [
            {"box": xyxy[i].tolist(), "label": labels.categories[i], **self._seen(picture.pixels, xyxy[i])}
            for i in np.flatnonzero(left)
        ]
        beside = [self._looks(picture.pixels, box) for box in _free(xyxy, width, height, self.settings.min_side)]
        return {"crops": crops, "beside": beside, "skipped": skipped}

    def _seen(self, pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> dict[str, Any]:
        return {"looks": self._looks(pixels, box), "sharp": round(_sharp(pixels, box), 4)}

    def _looks(self, pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> str:
        rows = describe(crop_region(pixels, box.tolist(), SIDE, self.settings.context))
        return base64.b64encode(rows.astype(np.float16).tobytes()).decode()

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        """Its defined numbers; all of ContentDetails under "content"."""
        details = judge_content(real, generated, seed)
        numbers = {
            "content_ratio": details.ratio,
            "content_interval": details.interval,
            "content_painted": details.painted,
            "content_real": details.real,
            "content_shuffled": details.shuffled,
            "content_auc": details.auc,
            "content_sharpness": details.sharpness,
        }
        return {name: value for name, value in numbers.items() if value is not None} | {"content": details.model_dump()}

    @staticmethod
    def summary(details: ContentDetails) -> list[str]:
        """The judged boxes, and the shares that were accepted."""
        lines = [f"{details.n_real} real and {details.n_painted} painted boxes judged by this data set's own boxes"]
        if details.interval is not None:
            low, high = details.interval
            lines.append(f"accepted: {details.painted:.3f} of the painted, {details.expected:.3f} of real ones")
            lines.append(f"ratio {details.ratio:.3f}   {low:.3f} to {high:.3f} (95 %)")
        return lines

    @staticmethod
    def tables(details: ContentDetails) -> list[Table]:
        return []  # the report shows them with the labels' counts

    @staticmethod
    def notes(details: ContentDetails) -> list[str]:
        texts = {
            side: ", ".join(f"{reason} {n}" for reason, n in some.items()) for side, some in details.skipped.items()
        }
        return [f"{side} boxes not judged for content: {text}" for side, text in texts.items() if text]


def _sharp(pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> float:
    """Logarithm of the mean squared gradient of the grey levels in a box."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box.tolist())
    part = pixels[min(y0, height - 1) : max(y1, y0 + 1), min(x0, width - 1) : max(x1, x0 + 1)]
    grey = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *way, ksize=1) for way in ((1, 0), (0, 1)))
    return float(np.log1p((np.square(across) + np.square(down)).mean()))


def _free(xyxy: NDArray[np.float64], width: int, height: int, least: float) -> list[NDArray[np.float64]]:
    """Boxes of the same sizes where no box is: at most BESIDE, the same for the same boxes."""
    rng, found = np.random.default_rng([width, height, len(xyxy)]), []
    sizes = (xyxy[:, 2:] - xyxy[:, :2])[(xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf) >= max(least, 1)]
    for _ in range(8 * BESIDE if len(sizes) else 0):
        size = sizes[rng.integers(len(sizes))]
        corner = rng.random(2) * np.maximum([width, height] - size, 0)
        box = np.concatenate([corner, corner + size])
        lap = np.minimum(xyxy[:, 2:], box[2:]) - np.maximum(xyxy[:, :2], box[:2])
        shared = np.clip(lap, 0, None).prod(axis=1) / max(size.prod(), 1e-9)
        if shared.max(initial=0) < 0.1:
            found.append(box)
        if len(found) == BESIDE:
            break
    return found
