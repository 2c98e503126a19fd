"""given: the text that the data set has for a picture, a field of its record. Needs no model, no picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from pydantic import Field

from lib.captioning.captioners import LabelCaptioner
from lib.core.registry import MemberSettings

if TYPE_CHECKING:
    import numpy as np

_NULL = msgspec.Raw(b"null")


class Given(LabelCaptioner):
    """Reads the text, changes nothing but the space around it."""

    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "none needed; the texts are the data set's"
    NEEDS_RECORDS: ClassVar[bool] = True

    class Settings(MemberSettings):
        field: str = Field(
            "caption", description="field of a picture's record: a text, or a list of which the first is taken"
        )

    def caption(
        self,
        pictures: Sequence[np.ndarray | None],
        labels: Sequence[Sequence[str]],
        records: Sequence[bytes | None] = (),
    ) -> list[str | None]:
        """The text in each record, a JSON object; None where it is missing or empty."""
        return [text_of(record, self.settings.field) for record in records]


def text_of(record: bytes | None, field: str) -> str | None:
    """A text of a record, a JSON object: the field itself or, of a list, the first that is not empty."""
    try:
        fields = msgspec.json.decode(record or b"{}", type=dict[str, msgspec.Raw])
        value = msgspec.json.decode(fields.get(field, _NULL), type=str | list[Any])
    except msgspec.ValidationError:  # another kind of value
        return None
    texts = [value] if isinstance(value, str) else value
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)
