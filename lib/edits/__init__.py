"""Edits: what to paint where. Pure and cheap. To add one: a file here with a class like `Replace`, and a line below.

An edit looks at one labelled picture and names targets; lib/plan.py turns them into passes with windows and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from lib.geometry import IntBox
from lib.registry import Family, MemberSettings
from lib.requests import XYXY

EDITS = Family(
    "edit",
    {
        "layout": "lib.edits.layout:Layout",
        "replace": "lib.edits.replace:Replace",
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


@dataclass(frozen=True, slots=True)
class Scene:
    """One selected picture as an edit sees it."""

    image_key: str
    digest: str
    width: int
    height: int
    prompt: str  # the caption's prompt; "" where captions are off
    draws: tuple[int, int]  # seed and variant: what every draw of this plan begins with
    boxes: Sequence[Box]


@dataclass(frozen=True, slots=True)
class Target:
    """One place to paint: becomes a pass."""

    region: tuple[IntBox, ...]  # xyxy whole pixels
    boxes: tuple[XYXY, ...]  # xyxy pixels of the picture
    phrases: tuple[str, ...]
    prompt: str
    redraws: tuple[str, ...]  # annotations whose object is new afterwards


@dataclass(frozen=True, slots=True)
class Draft:
    """What an edit wants of one picture; without targets, `reason` says why."""

    targets: tuple[Target, ...]
    keeps: tuple[str, ...]  # annotations that go into the new picture as they are
    barred: tuple[str, ...] = ()  # "annotation key: reason"
    reason: str = ""


class Edit(Protocol):
    """The contract; tests/test_edits.py holds every registered member to it."""

    VERSION: ClassVar[int]
    WHOLE: ClassVar[bool]  # True: one window over the whole picture; False: a window around each target
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any) -> None: ...

    def draft(self, scene: Scene) -> Draft:
        """Targets for one picture; no randomness but `lib.requests.draw`."""
        ...
