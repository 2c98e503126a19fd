"""Post-processing of captions as data: what to correct, replace, delete and require, in a fixed order.

    rules = load_rules("s3")                                     # a preset, a dict of the fields below, or None
    caption, reason = apply_rules(rules, "a group of birds", ["puffin"])    # ("puffins", "")

To add a preset: an entry in RULES. The order is that of BLIP-2 + GLIGEN, whose rules are called s3: spelling;
synonyms of a label; generic words where the label is missing, protected phrases apart; deletions; the label required.
All matching ignores case; words match whole, and a plural stays one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from lib.core.errors import AugmentError, checked, unknown
from lib.core.registry import MemberSettings
from lib.core.words import plural, spoken

LABEL_MISSING = "label_missing"


class Rules(MemberSettings):
    """Nothing is changed by default."""

    spelling: tuple[tuple[str, str], ...] = Field((), description="pairs: wrong, right")
    synonyms: dict[str, tuple[str, ...]] = Field({}, description="label: words that become the label, in its pictures")
    generic: tuple[str, ...] = Field((), description="words that become the label where the caption lacks it")
    protect: tuple[str, ...] = Field((), description="phrases in which generic words stay")
    delete: tuple[str, ...] = Field((), description="regular expressions whose matches are deleted, in this order")
    label_required: bool = Field(False, description="set aside captions that name none of the picture's labels")

    @field_validator("delete")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns


RULES: Mapping[str, Rules] = {
    "none": Rules(),
    "s3": Rules(
        spelling=(("sting ray", "stingray"),),
        synonyms={"puffin": ("bird", "penguin", "seal")},
        generic=("fish",),
        protect=("fish tank",),
        delete=(r"\ba (man|person) (is )?\w*ing (in|at) ", r"\ba group of ", r"\bmany ", r"^a "),
        label_required=True,
    ),
}


def load_rules(value: str | Mapping[str, Any] | None) -> Rules:
    """Rules from a preset's name, from fields as data, or none.

    Raises AugmentError that lists the presets, or names the wrong field, its value and the known fields.
    """
    if value is None:
        return RULES["none"]
    if isinstance(value, str):
        if value not in RULES:
            raise unknown("caption rules", value, RULES)
        return RULES[value]
    return checked(Rules, value, "caption rules, field")


def apply_rules(rules: Rules, caption: str, labels: Sequence[str]) -> tuple[str, str]:
    """(processed caption, reason) of a picture with these distinct labels; reason is "" or "label_missing".

    A generic word becomes the label only where there is exactly one to choose.
    """
    for wrong, right in rules.spelling:
        caption = _replaced(caption, [wrong], right, right + "s")
    for label in labels:
        word = spoken(label)
        caption = _replaced(caption, rules.synonyms.get(label, ()), word, plural(word))
    if len(labels) == 1 and not _names(caption, labels[0]):
        word = spoken(labels[0])
        caption = _replaced(caption, rules.generic, word, plural(word), rules.protect)
    for pattern in rules.delete:
        caption = re.sub(pattern, "", caption.strip(), flags=re.IGNORECASE)
    caption = " ".join(caption.split())
    missing = rules.label_required and labels and not any(_names(caption, label) for label in labels)
    return caption, LABEL_MISSING if missing else ""


def fill_prompt(template: str, caption: str, label: str, width: int, height: int) -> str:
    """The template with {caption} {label} {width} {height} filled in; values are taken literally.

    Raises AugmentError for another name, or for braces that do not close.
    """
    known = {"caption": caption, "label": label, "width": str(width), "height": str(height)}
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise AugmentError(f"prompt {template!r}: {error}; write {{{{ and }}}} for braces themselves") from None
    for _, name, spec, conversion in parts:
        if name is not None and (name not in known or spec or conversion):
            names = " ".join(f"{{{n}}}" for n in known)
            raise AugmentError(f"prompt {template!r}: {{{name}}} cannot be filled in; known are {names}")
    return "".join(text + ("" if name is None else known[name]) for text, name, _, _ in parts)


def _replaced(text: str, words: Sequence[str], one: str, many: str, protect: Sequence[str] = ()) -> str:
    """`words` → `one`, their plurals → `many`, except inside protected phrases."""
    if not words:
        return text
    safe = "|".join(re.escape(phrase) for phrase in protect) or "(?!)"
    plurals = "|".join(re.escape(plural(word)) for word in words if plural(word) != word) or "(?!)"
    singles = "|".join(re.escape(word) for word in words)
    pattern = rf"\b(?:(?P<safe>{safe})|(?P<many>(?:{plurals})\b)|(?:{singles})\b)"

    def new(match: re.Match[str]) -> str:
        if match["safe"]:
            return match[0]
        return many if match["many"] else one

    return re.sub(pattern, new, text, flags=re.IGNORECASE)


def _names(caption: str, label: str) -> bool:
    """Does the caption name the label, in the singular or plural?"""
    word = spoken(label)
    return re.search(rf"\b({re.escape(word)}|{re.escape(plural(word))})\b", caption, re.IGNORECASE) is not None
