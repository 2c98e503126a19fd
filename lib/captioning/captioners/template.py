"""template: a sentence from the labels alone, "a forklift and two pallets". Needs no model and sees no picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from lib.captioning.captioners import LabelCaptioner
from lib.core.registry import MemberSettings
from lib.core.words import NUMBERS, article, plural, spoken

if TYPE_CHECKING:
    import numpy as np

EMPTY = "an empty scene"


class Template(LabelCaptioner):
    """Counts the labels and lists them, in alphabetical order."""

    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "none needed"
    NEEDS_RECORDS: ClassVar[bool] = False

    class Settings(MemberSettings):
        pass

    def caption(
        self,
        pictures: Sequence[np.ndarray | None],
        labels: Sequence[Sequence[str]],
        records: Sequence[bytes | None] = (),
    ) -> list[str]:
        """One sentence for each list of labels, whatever their order; "an empty scene" for none."""
        return [sentence_of(names) for names in labels]


def sentence_of(labels: Sequence[str]) -> str:
    """["pallet", "forklift", "pallet"] → "a forklift and two pallets"."""
    counts = Counter(spoken(label) for label in labels)
    parts = [_counted(word, count) for word, count in sorted(counts.items())]
    if not parts:
        return EMPTY
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def _counted(noun: str, count: int) -> str:
    if count == 1:
        return noun if noun.rpartition(" ")[2].lower() in ("scissors", "skis", "glasses") else f"{article(noun)} {noun}"
    return f"{NUMBERS[count - 2] if count <= 12 else count} {plural(noun)}"
