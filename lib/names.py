"""Names of two vocabularies: a data set's categories, and the labels that a model was trained on.

match_names(["small load carrier"], {7: "Small_Load-Carrier"}, {})   # {7: 0}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.captioners.template import spoken
from lib.errors import AugmentError


def match_names(names: Sequence[str], known: Mapping[int, str], called: Mapping[str, str]) -> dict[int, int]:
    """{number of a label of the model: number of the name}, for the names that the model knows.

    known: the model's labels by number; called: name → the model's label, where they differ. Case, underscores and
    hyphens do not count. Raises AugmentError where `called` speaks of a label that the model does not have.
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
    told = sorted(set(labels))
    return ", ".join(told[:most]) + (f" and {len(told) - most} others" if len(told) > most else "")


def _plain(name: str) -> str:
    return spoken(name.replace("-", " ")).casefold()
