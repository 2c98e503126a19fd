"""Edits: what to paint where. Pure and cheap. To add one: a file here with a class like `Replace`, and a line below.

An edit looks at one labelled picture and names targets; the plan turns them into passes with windows and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import Field, field_validator

from lib.core.geometry import IntBox
from lib.core.keys import hash_draw
from lib.core.registry import Family, MemberSettings
from lib.records.labels import VisibilitySettings
from lib.records.requests import XYXY, Rle

EDITS = Family(
    "edit",
    {
        "layout": "lib.planning.edits.layout:Layout",
        "replace": "lib.planning.edits.replace:Replace",
        "occlude": "lib.planning.edits.occlude:Occlude",
        "refine": "lib.planning.edits.occlude:Refine",
        "insert": "lib.planning.edits.insert:Insert",
        "background": "lib.planning.edits.background:Background",
        "mask": "lib.planning.edits.mask:Mask",
    },
)


@dataclass(frozen=True, slots=True)
class Box:
    """One annotation of the picture."""

    key: str
    category: str
    xyxy: XYXY  # pixels, cut to the frame
    xywh: XYXY  # the same as the label has it: as annotated, to the last digit, where nothing was cut
    editable: bool  # selected, usable, no crowd
    crowd: bool = False
    record: bytes | None = None  # the annotation as the source has it


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One selected picture with its annotations: the input of an edit."""

    image_key: str
    digest: str
    width: int
    height: int
    prompt: str  # the caption's prompt; "" where captions are off
    draws: tuple[int, int]  # seed and variant: what every draw of this plan begins with
    boxes: Sequence[Box]
    places: Mapping[str, np.ndarray] = field(
        default_factory=dict
    )  # lib/planning/statistics.py; where its settings ask for them
    mixes: Sequence[tuple[str, ...]] = ()  # of lib/planning/statistics.py too


@dataclass(frozen=True, slots=True)
class Target:
    """One place to paint: becomes a pass."""

    region: tuple[IntBox, ...]  # xyxy whole pixels
    boxes: tuple[XYXY, ...]  # xyxy pixels of the picture
    phrases: tuple[str, ...]  # one per box
    prompt: str
    about: tuple[str, ...]  # annotations of the objects that it changes: part of its seed
    plain: str = ""  # the prompt for painters that read no phrases; "" = the same
    role: str = ""  # distinguishes targets about the same annotations: part of the seed too
    redraws: tuple[str, ...] = ()  # annotations whose object is new afterwards
    moves: bool = False  # True: those objects stand in `boxes` now, one each
    adds: tuple[IntBox, ...] = ()  # boxes of objects that come in front of all others
    category: str | None = None  # name, for what it adds or redraws; None: adds get no label, redraws keep theirs
    kinds: tuple[str, ...] = ()  # categories of adds, one each, where they are of several; () = all of `category`
    holes: tuple[IntBox, ...] = ()  # of the region, not to be painted
    mask: Rle | None = None  # of the whole picture: of the region only this is to be painted
    # Of other categories, for painters that paste real objects: the first of them all that fits what is around it.
    instead: tuple[Target, ...] = ()

    @property
    def added(self) -> list[tuple[IntBox, str]]:
        """Box and category of each new object that has a label."""
        if self.kinds:
            return list(zip(self.adds, self.kinds, strict=True))
        return [] if self.category is None else [(box, self.category) for box in self.adds]


@dataclass(frozen=True, slots=True)
class Draft:
    """The targets of one picture; `reason` is set where there are none."""

    targets: tuple[Target, ...]
    keeps: tuple[str, ...]  # annotations that go into the new picture as they are
    barred: tuple[str, ...] = ()  # "annotation key: reason"
    reason: str = ""


class EditSettings(MemberSettings):
    """Settings of every edit."""

    prompt: str | list[str] | None = Field(
        None,
        description="what to paint, {category} and {caption} filled in; of several, each target takes one by its hash; "
        "none: the edit's default",
    )
    negative_prompt: str = Field("", description="what the painter should keep away from")

    @property
    def needs_places(self) -> bool:
        """True: a picture comes with the places that objects of the data set take."""
        return False

    @property
    def needs_mixes(self) -> bool:
        """True: a picture comes with the mixes of categories that pictures of the data set hold."""
        return False

    @property
    def paints_own(self) -> bool:
        """True: it paints objects of the data set's categories; False: of those that its settings name, or of none."""
        return True

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = value if isinstance(value, list) else [value]
        if value is not None and not (texts and all(text and text.strip() for text in texts)):
            raise ValueError("a text, or a list of texts, was expected, none of them empty")
        return value


class WindowSettings(EditSettings, VisibilitySettings):
    """What edits have whose targets are smaller than the picture: how much of it the painter sees around them, and what
    becomes of the labels of objects that lie partly under what is painted."""

    context: float = Field(2.0, ge=1, description="window side as a multiple of the target's longer side")
    min_window: int = Field(256, ge=1, description="least window side, pixels of the picture, where the frame allows")


class Edit(Protocol):
    """The contract; tests/test_edits.py holds every registered member to it."""

    VERSION: ClassVar[int]
    WHOLE: ClassVar[bool]  # True: one window over the whole picture; False: a window around each target
    Settings: ClassVar[type[EditSettings]]

    def __init__(self, settings: Any) -> None: ...

    def draft(self, picture: LabelledPicture) -> Draft:
        """Targets for one picture; no randomness but `lib.core.keys.hash_draw`."""
        ...


def chosen(boxes: Sequence[Box], picture: LabelledPicture, purpose: str, most: int | None) -> list[Box]:
    """At most `most` boxes, those with the smallest hashes, in the order of the annotations."""
    keys = {box.key for box in ranked(boxes, picture, purpose)[:most]}
    return [box for box in boxes if box.key in keys]


def ranked(boxes: Sequence[Box], picture: LabelledPicture, purpose: str) -> list[Box]:
    """Boxes in the order of their hashes."""
    return sorted(boxes, key=lambda box: hash_draw(picture.draws, purpose, picture.digest, box.key))


def prompt_of(settings: EditSettings, picture: LabelledPicture, key: str, category: str, otherwise: str) -> str:
    """The prompt for one target: of a pool the text with the smallest hash; `otherwise` where none is set."""
    pool = settings.prompt if isinstance(settings.prompt, list) else [settings.prompt or otherwise]
    text = min(pool, key=lambda text: hash_draw(picture.draws, "prompt", picture.digest, key, text))
    return text.replace("{category}", category).replace("{caption}", picture.prompt).strip() or otherwise


def new_object(settings: EditSettings, category: str | None, picture: LabelledPicture, box: Box) -> tuple[str, str]:
    """(prompt, plain) for an object painted anew, of another category where one is given.

    Without a prompt in the settings: the caption, for painters that read the box's phrase beside it. Other painters
    receive the object alone, as do all where the caption names an old object of another category.
    """
    plain = f"a {category or box.category}"
    if settings.prompt is None and not category and picture.prompt:
        return picture.prompt, plain
    return prompt_of(settings, picture, box.key, category or box.category, plain), ""


def nothing(picture: LabelledPicture) -> str:
    """The reason for a draft without targets where every editable box was barred, or no box is editable."""
    return "all_boxes_barred" if any(box.editable for box in picture.boxes) else "no_boxes_to_edit"
