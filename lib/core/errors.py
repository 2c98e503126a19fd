"""The one error that a user is meant to read, and how faults of settings become its sentence.

Everything that stops a run because of what the user gave (a file, a setting, a missing download) raises
`AugmentError` with the value, what was expected and the next step. The command line prints its text and no traceback;
tasks do not retry it. Rows that can be set aside get a reason instead, which a `PictureError` carries to them.

    settings = checked(TrainSettings, {"size": 64})             # "parameter 'size': ... (got 64)"
    raise unknown("preset", "copypaste", PRESETS)               # "... (do you mean 'copy-paste'?): known are ..."
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args

if TYPE_CHECKING:  # a third of the command line's start otherwise
    from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound="BaseModel")


MOST = 2000  # characters of an error: what it quotes may have no end


class AugmentError(Exception):
    """Bad input, explained in one sentence: value, what was expected, next step.

    What a name or a file puts into the sentence can neither control a terminal nor fail to print: control characters,
    marks of direction and lone surrogates are escaped, and the middle of what is too long is left out. A working copy's
    path is the URL that it stands for, a login in a URL is not shown.
    """

    def __init__(self, text: str) -> None:
        from lib.core.places import as_urls

        super().__init__(_shortened(_printable(as_urls(text))))


class PictureError(Exception):
    """A picture that cannot be used: a stable word and, for a person, what happened.

    Reasons: image_missing, image_empty, image_broken, image_too_large, out_of_memory, model_failed and others of
    docs/workspace.md.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _shortened(text: str) -> str:
    return text if len(text) <= MOST else f"{text[: MOST * 3 // 4]} … {text[-MOST // 5 :]}"


def unknown(kind: str, name: str, known: Collection[str]) -> AugmentError:
    """The error for a name that is not among the known ones: it lists them, the one of nearest spelling first."""
    return AugmentError(f"unknown {kind} {name!r}{nearest(name, known)}: known are {', '.join(sorted(known))}")


def checked(model: type[M], values: Mapping[str, Any], what: str = "parameter") -> M:
    """A settings model from plain values.

    what: how its fields are called in an error. Raises AugmentError that names the first wrong field, its value and
    what is expected; for an unknown one the nearest known name and all known names.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise AugmentError(_explained(error, model, what)) from None


_ALTERNATIVES = ("str", "Choice", "dict[str,any]")  # what pydantic puts into the place of a value of several types


def _explained(error: ValidationError, model: type[BaseModel], what: str) -> str:
    # Of the alternatives for one value the one that got furthest: {"name": 3} is a wrong name, not a wrong text.
    first = max(error.errors(), key=lambda e: len(e["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # of the values together: it names them itself
        return message if what == "parameter" else f"{what}: {message}"
    place = f"{what} {'.'.join(str(part) for part in first['loc'] if part not in _ALTERNATIVES)!r}"
    if first["type"] == "extra_forbidden":
        name, known = str(first["loc"][-1]), _fields_at(model, first["loc"][:-1])
        return f"{place} is not known{nearest(name, known)}; known are: {', '.join(known) or 'none'}"
    return f"{place}: {message}" + ("" if first["type"] == "missing" else f" (got {_given(first['input'])})")


def _given(value: Any) -> str:
    """A value for a sentence; what is long or nested is cut short."""
    try:
        shown = _SHORT.repr(value)
    except ValueError:  # a number of thousands of digits
        return f"a number of {value.bit_length():,} bits" if isinstance(value, int) else type(value).__name__
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


_SHOWN = 200  # characters of a value in a sentence
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHOWN
_SHORT.maxlong = 40
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 20


def _fields_at(model: Any, place: Iterable[Any]) -> list[str]:
    """Names of the fields of the model that stands at a place within another."""
    for part in place:
        field = getattr(model, "model_fields", {}).get(part)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def nearest(name: str, known: Collection[str]) -> str:
    """ " (do you mean 'steps'?)"; "" where no known name is spelt alike."""
    alike = difflib.get_close_matches(name, list(known), n=1)
    return f" (do you mean {alike[0]!r}?)" if alike else ""
