"""A request: everything random already decided, so that generating is a pure function of it.

A request is an ordered list of passes over one source picture. Its canonical JSON is its identity; keys are SHA-256.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from lib.core.errors import AugmentError
from lib.core.keys import key_of

XYXY = tuple[float, float, float, float]  # left, top, right, bottom


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rle(Frozen):
    """A mask in RLE, COCO's compressed run lengths."""

    size: tuple[int, int]  # (height, width), pixels
    counts: str


class Donor(Frozen):
    """A real object to paste: where it lies in which source picture."""

    annotation: str  # annotation key
    digest: str  # of the donor's picture
    box: tuple[int, int, int, int]  # xyxy, whole pixels, the crop
    frame: str  # how its picture is turned, as ImageRow
    flip: bool  # mirrored before it is pasted
    # The object alone is pasted, along these polygons of the same kind; None = the whole crop.
    outline: tuple[tuple[float, ...], ...] | None = None
    polygon: tuple[tuple[float, ...], ...] | None  # x, y, x, y, ... in donor picture pixels, None = the whole crop
    around: bool = False  # a whole crop: the light around it is compared with that around its new place

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a request of a former version did not have: its key stays."""
        values: dict[str, Any] = plain(self)
        return values if self.around else {name: value for name, value in values.items() if name != "around"}


class Pass(Frozen):
    """One painting: a window of the picture, resized to the painter's shape."""

    window: tuple[int, int, int, int]  # xyxy, whole pixels of the picture; may reach beyond the frame
    shape: tuple[int, int]  # (height, width) pixels at which the painter works
    region: tuple[tuple[int, int, int, int], ...]  # xyxy rectangles to paint, whole pixels of the picture
    holes: tuple[tuple[int, int, int, int], ...] = ()  # xyxy rectangles, of the region, that are not to be painted
    mask: Rle | None = None  # of the whole picture: of the region only this is to be painted
    boxes: tuple[XYXY, ...]  # xyxy, pixels of the painter's shape, one per phrase
    phrases: tuple[str, ...]  # what is in each box
    prompt: str
    negative_prompt: str
    seed: int  # 0 .. 2^63-1
    donor: Donor | None = None


class Label(Frozen):
    """One annotation of the synthetic picture."""

    source: str | None  # key of the annotation it comes from; None: an object that the source does not have
    painted: bool  # the object is painted anew; False: it is the source's
    bbox: tuple[float, float, float, float] | None = None  # xywh pixels; None: shape and area as the source has them
    segmentation: tuple[tuple[float, ...], ...] | Rle | None = None  # polygons in pixels, or RLE; with bbox
    area: float | None = None  # pixels², with bbox
    category: str | None = None  # name; None: the source's
    visible: float | None = None  # lower bound of the share, 0 to 1, that stays visible where something came in front
    ignored: str = ""  # the reason why detectors should not learn from it; "" = they should
    # Found out about the painted picture, so not part of the request, nor of its key.
    dropped: str = Field("", exclude=True)  # the reason why it is left out; it keeps its place, to which its id belongs


class Outcome(BaseModel):
    """The part of a request that drawing and the final set need once it is painted."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    image_key: str
    source: str  # digest of the source picture's bytes
    frame: str  # "upright" or "stored", as ImageRow
    width: int  # pixels
    height: int
    split: str
    variant: int
    edit: str
    painter: dict[str, Any]  # identity: name, version, settings, model id and revision
    composite: dict[str, Any]  # identity: name, version, settings
    labels: tuple[Label, ...]
    # Derived from the passes, so not part of the request's JSON, nor of its key.
    # xyxy rectangles that were painted, whole pixels.
    regions: tuple[tuple[int, int, int, int], ...] = Field((), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _with_regions(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("passes") or "regions" in values:
            return values
        regions = [
            tuple(box)
            for step in values["passes"]
            for box in (step["region"] if isinstance(step, dict) else step.region)
        ]
        return {**values, "regions": tuple(dict.fromkeys(regions))}


class Request(Outcome):
    """What to make from one source picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passes: tuple[Pass, ...]


_Parsed = TypeVar("_Parsed", bound=Outcome)


def parsed(kind: type[_Parsed], text: bytes) -> _Parsed:
    """A request, or the part of one, of a PlanRow. Raises AugmentError, one sentence, for anything else: whoever writes
    a plan's digest can write a plan."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc'])):.80}: {first['msg']:.120}"
    except (LookupError, TypeError, AttributeError) as error:  # of what is looked at before its fields are checked
        why = f"{type(error).__name__}: {error}"[:200]
    raise AugmentError(
        f"a request of the plan cannot be read ({why.lstrip(': ')}): remove parts/plan and manifests/plan.parquet from "
        "the workspace, and run again"
    )


def picture_keys(request: Request) -> list[tuple[str, str]]:
    """(paint key, picture key) of each pass: a later pass starts from the picture before it."""
    keys: list[tuple[str, str]] = []
    before = request.source
    frame = [request.frame, request.width, request.height]
    for step in request.passes:
        paint = key_of("paint", step, request.painter, before, frame)
        before = key_of("picture", paint, request.composite)
        keys.append((paint, before))
    return keys
