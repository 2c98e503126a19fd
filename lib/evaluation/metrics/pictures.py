"""Metrics of single pictures; the formulas stand in duplicates.py and text.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import msgspec
import numpy as np
from pydantic import Field

from lib.core.checkpoints import ModelRef
from lib.core.registry import MemberSettings
from lib.evaluation.metrics import AnnotatedPicture, Base, Details, Kind, Noted, Number
from lib.evaluation.metrics.duplicates import hash_of, with_near_hashes
from lib.evaluation.metrics.text import clip_score
from lib.judges.clip import RegionScorer, RegionSettings

_Hash = Annotated[int, msgspec.Meta(ge=0)]  # of 64 bits


class _Hashed(TypedDict):
    hash: _Hash
    mirrored: _Hash | None


class _Captioned(TypedDict):
    numbers: dict[str, float]
    cut: bool


class Copies(Base):
    """Near-duplicates by perceptual hash, within the generated and of the real; mirrored ones too."""

    NOTE: ClassVar[Any] = _Hashed
    OF: ClassVar[Kind] = "pictures"
    NEEDS: ClassVar[Literal["", "boxes", "captions"]] = ""
    NUMBERS: ClassVar[dict[str, Number]] = {
        "copies": Number(
            "Share of generated pictures with a near-copy among the generated, by perceptual hash: near 0 is "
            "good, unless several are edits of one source. It cannot see that two show the same thing differently.",
            "lower",
            "share",
        ),
        "copies_of_real": Number(
            "Share of generated pictures with a near-copy among the real: near 1 is natural for edits, "
            "and bad where the real set is kept for judging, or the pictures should be all new. It cannot see single "
            "copied objects.",
            "lower",
            "share",
        ),
    }

    class Settings(MemberSettings):
        most: int = Field(4, ge=0, le=64, description="bits of 64 in which two pictures may differ and count as copies")
        mirrored: bool = Field(True, description="a mirrored copy is one")

    def of_picture(self, picture: AnnotatedPicture) -> dict[str, Any]:
        turned = hash_of(picture.pixels, mirrored=True) if self.settings.mirrored else None
        return {"hash": int(hash_of(picture.pixels)), "mirrored": None if turned is None else int(turned)}

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        made, theirs = _hashes(generated, "hash"), _hashes(real, "hash")
        turned = _hashes(generated, "mirrored")
        if not len(made):
            return {}
        twins, _ = with_near_hashes(made, most=self.settings.most)
        leaks, _ = with_near_hashes(made, theirs, self.settings.most)
        if self.settings.mirrored:
            first, second = with_near_hashes(turned, made, self.settings.most, apart=True)  # none is a copy of itself
            twins |= first | second
            leaks |= with_near_hashes(turned, theirs, self.settings.most)[0]
        return {"copies": float(twins.mean()), "copies_of_real": float(leaks.mean())}


def _hashes(side: Noted, name: str) -> np.ndarray:
    return np.array([note[name] for note in side.notes if note[name] is not None], np.uint64)


class CaptionDetails(Details):
    model: str  # identity of the CLIP
    cut: int  # captions that were longer than it reads


class Captions(Base):
    """CLIP score of each picture with its caption."""

    NOTE: ClassVar[Any] = _Captioned
    MORE: ClassVar[type[Details] | None] = CaptionDetails
    OF: ClassVar[Kind] = "pictures"
    NEEDS: ClassVar[Literal["", "boxes", "captions"]] = "captions"
    NUMBERS: ClassVar[dict[str, Number]] = {
        "clip_score": Number(
            "How well generated pictures show what their captions say, 0 to 2.5: near that of the real ones "
            "is good. It cannot count, nor tell left from right, and numbers of different CLIPs do not compare.",
            "higher",
        ),
        "clip_score_real": Number(
            "The same of the real pictures: what this CLIP makes of pictures that do show it. Read no "
            "further where a set with exchanged captions scores about as high.",
            "higher",
        ),
    }

    class Settings(MemberSettings):
        model: str = Field("mini:clip", description="mini:clip, a folder or a hub id")

    def __init__(self, settings: Any, model: ModelRef) -> None:
        super().__init__(settings)
        self.scorer = RegionScorer(RegionSettings(), model)

    @property
    def identity(self) -> str:
        return self.scorer.identity

    def of_picture(self, picture: AnnotatedPicture) -> dict[str, Any]:
        text = picture.labels.caption
        if not text:
            raise ValueError("no caption: a COCO record of the picture with a field `caption` was expected")
        pictures, texts = self.scorer.embed_pictures([picture.pixels]), self.scorer.embed_texts([text])
        score = float(clip_score(pictures, texts)[0])
        return {"numbers": {"clip_score": score}, "cut": bool(self.scorer.too_long([text])[0])}

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        sides = {"clip_score": generated.notes, "clip_score_real": real.notes}
        found = {
            name: float(np.mean([n["numbers"]["clip_score"] for n in notes])) for name, notes in sides.items() if notes
        }
        cut = sum(note["cut"] for notes in sides.values() for note in notes)
        return {**found, "captions": {"model": self.identity, "cut": cut}}
