"""English for labels: spoken names, articles, plurals; names of two vocabularies matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.core.errors import AugmentError

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


def in_words(reason: str) -> str:
    """A reason for a person."""
    return reason.replace("_", " ")


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


def article(noun: str) -> str:
    """ "a" or "an", by sound, guessed from the spelling."""
    low = noun.lower()
    if low.startswith(("hour", "honest", "heir")):
        return "an"
    if low.startswith(("uni", "use", "usb", "utensil", "euro", "ewe", "one")) and not low.startswith(("unin", "unim")):
        return "a"
    return "an" if low[:1] in tuple("aeiou") else "a"


def naming(category: str) -> str:
    """ "a photo of a pallet truck"."""
    return f"a photo of {article(category)} {category}"


def match_names(names: Sequence[str], known: Mapping[int, str], called: Mapping[str, str]) -> dict[int, int]:
    """{number of a label of the model: number of the name}, for the names that the model knows.

    known: the model's labels by number; called: name → the model's label, where they differ. Case, underscores and
    hyphens do not count. Raises AugmentError where `called` names a label that the model does not have.
    """
    numbers: dict[str, list[int]] = {}
    for number, label in known.items():
        numbers.setdefault(_plain(label), []).append(number)
    strange = sorted(label for label in called.values() if _plain(label) not in numbers)
    if strange:
        raise AugmentError(f"the detector has no label {', '.join(strange)}: it has {some_of(list(known.values()))}")
    found: dict[int, int] = {}
    for i, name in enumerate(names):
        for number in numbers.get(_plain(called.get(name, name)), []):
            found.setdefault(number, i)
    return found


def some_of(labels: Sequence[str], most: int = 12) -> str:
    """ "cat, dog and 78 others", in alphabetical order."""
    names = sorted(set(labels))
    return ", ".join(names[:most]) + (f" and {len(names) - most} others" if len(names) > most else "")


def size_in_words(size: float) -> str:
    """Bytes for a person: "3.2 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.2g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _plain(name: str) -> str:
    return spoken(name.replace("-", " ")).casefold()
