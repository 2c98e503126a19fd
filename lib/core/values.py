"""Values that a file and a request can hold: no NUL, no half of a surrogate pair, no endless number or path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from lib.core.places import is_url, place_of, shown

LONGEST_PATH, LONGEST_NAME = 2000, 255  # bytes of a path and of each of its parts, with room for what is put below
_LARGEST = 2**63 - 1
_DEEPEST = 64

# A setting that may be a URL: the program sees the path of its working copy, a person and a file the URL.
Place = Annotated[Path, BeforeValidator(place_of), PlainSerializer(shown, when_used="json")]


def check_value(value: Any, depth: int = 0) -> Any:
    """The value; raises ValueError for what no file and no name of a file can hold, in lists and mappings too.

    That are NUL and halves of surrogate pairs in texts, numbers that are not finite or have more than 64 bits, paths
    longer than a file system takes, and bytes.
    """
    if isinstance(value, str | Path):
        check_text(str(value))
        if isinstance(value, Path):
            _check_length(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("expected a number of at most 64 bits")
    elif isinstance(value, bytes):
        raise ValueError("expected text, not bytes")
    elif isinstance(value, dict | list | tuple | set):
        if depth == _DEEPEST:
            raise ValueError(f"expected at most {_DEEPEST} levels of values in values")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            check_value(inner, depth + 1)
    return value


def check_text(text: str) -> None:
    """Raises ValueError for a text that cannot be written as UTF-8, or holds a NUL."""
    if "\0" in text:
        raise ValueError("expected text without a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected text that is UTF-8: character {error.start} is half of a surrogate pair") from None


def check_path(text: str) -> Path:
    """A path as a person gives it; raises ValueError for one that no file can have, the empty one too."""
    if not text.strip():
        raise ValueError("expected a path, not an empty text")
    if is_url(text):
        raise ValueError("expected a path of this machine: URLs are for dataset.images, dataset.annotations, workspace")
    check_value(path := Path(text))
    return path


def _check_length(path: Path) -> None:
    if len(bytes(path)) > LONGEST_PATH or max((len(part.encode()) for part in path.parts), default=0) > LONGEST_NAME:
        raise ValueError(f"expected a path of at most {LONGEST_PATH} bytes, {LONGEST_NAME} in each of its parts")


class Storable(BaseModel):
    """Values that can be kept in settings.json and stand in a request, whatever their fields."""

    model_config = ConfigDict(allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _storable(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        checked = check_value(handler(value))
        if isinstance(checked, Path) and isinstance(value, str) and checked == Path(value):  # else the path of a URL
            check_path(value)
        return checked
