"""template: a sentence from the labels alone, "a forklift and two pallets". Needs no model and sees no picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lib.registry import MemberSettings

EMPTY = "an empty scene"
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")  # then digits
IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "knife": "knives",
    "wife": "wives",
    "life": "lives",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "half": "halves",
    "wolf": "wolves",
    "calf": "calves",
    "thief": "thieves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "cactus": "cacti",
    "box": "boxes",
}
UNCHANGED = {"sheep", "fish", "deer", "aircraft", "series", "species", "scissors", "skis", "glasses", "broccoli"}
_LIKE_THE_LAST = ("fish", "man", "woman", "child", "person", "mouse", "shelf", "knife")  # starfish, fireman, bookshelf
_NOT_A_MAN = {"human", "german", "roman", "talisman", "shaman"}


class Template:
    """Counts the labels and says them, in alphabetical order."""

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = None
    LICENCE: ClassVar[str] = "none needed"
    SEES: ClassVar[bool] = False
    READS: ClassVar[bool] = False

    class Settings(MemberSettings):
        pass

    batch_size = 256

    def __init__(self, settings: Settings, model: Any = None) -> None:
        self.settings = settings

    def caption(
        self,
        pictures: Sequence[np.ndarray | None],
        labels: Sequence[Sequence[str]],
        records: Sequence[bytes | None] = (),
    ) -> list[str]:
        """One sentence for each list of labels, whatever their order; "an empty scene" for none."""
        return [say(own) for own in labels]


def say(labels: Sequence[str]) -> str:
    """["pallet", "forklift", "pallet"] → "a forklift and two pallets"."""
    counts = Counter(spoken(label) for label in labels)
    parts = [_counted(word, count) for word, count in sorted(counts.items())]
    if not parts:
        return EMPTY
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def spoken(label: str) -> str:
    """A category name as words: "small_load_carrier" → "small load carrier"."""
    return " ".join(label.replace("_", " ").split())


def plural(noun: str) -> str:
    """English plural of the last word: "pallet truck" → "pallet trucks", "wine glass" → "wine glasses"."""
    before, space, word = noun.rpartition(" ")
    return before + space + _plural_word(word)


def _plural_word(word: str) -> str:
    low = word.lower()
    if low in UNCHANGED:
        return word
    if low in IRREGULAR:
        return word[:1] + IRREGULAR[low][1:]
    for ending in _LIKE_THE_LAST:
        if low.endswith(ending) and low not in _NOT_A_MAN:
            return word[: -len(ending)] + _plural_word(word[-len(ending) :])
    if low.endswith("y") and low[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if low.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _counted(noun: str, count: int) -> str:
    if count == 1:
        return noun if noun.rpartition(" ")[2].lower() in ("scissors", "skis", "glasses") else f"{article(noun)} {noun}"
    return f"{NUMBERS[count - 2] if count <= 12 else count} {plural(noun)}"


def article(noun: str) -> str:
    """ "a" or "an", by sound as far as spelling tells."""
    low = noun.lower()
    if low.startswith(("hour", "honest", "heir")):
        return "an"
    if low.startswith(("uni", "use", "usb", "utensil", "euro", "ewe", "one")) and not low.startswith(("unin", "unim")):
        return "a"
    return "an" if low[:1] in tuple("aeiou") else "a"


def naming(category: str) -> str:
    """ "a photo of a pallet truck"."""
    return f"a photo of {article(category)} {category}"
