"""A recipe: edit × painter × composite, one point of the space, and which points exist."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict

from lib.core.errors import AugmentError, nearest, unknown
from lib.core.registry import Member
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS


class Recipe(BaseModel):
    """The three members. Raises AugmentError where they do not go together."""

    model_config = ConfigDict(frozen=True)
    edit: Member
    painter: Member
    composite: Member

    def model_post_init(self, context: Any) -> None:
        check_triple(self.edit.name, self.painter.name, self.composite.name)

    @property
    def categories(self) -> list[tuple[str, str]]:
        """`new_categories` of its edit."""
        return new_categories(self.edit)

    @property
    def needs_places(self) -> bool:
        """Does its edit draw from the places that objects of the data set take?"""
        return bool(EDITS.settings(self.edit.name, self.edit.settings).needs_places)

    @property
    def needs_mixes(self) -> bool:
        """Does its edit draw from what pictures of the data set hold?"""
        return bool(EDITS.settings(self.edit.name, self.edit.settings).needs_mixes)

    @property
    def needs_donors(self) -> bool:
        """Does its painter paste real objects?"""
        return bool(PAINTERS[self.painter.name].NEEDS_DONOR)

    def check_categories(self, known: Collection[str]) -> None:
        """Raises AugmentError where new labels would be of a category that the data set does not have."""
        for field, name in self.categories:
            if name not in known:
                raise AugmentError(
                    f"edit {self.edit.name!r}, setting {field!r}: the data set has no category {name!r}"
                    f"{nearest(name, known)}, it has {', '.join(sorted(known)) or 'none'}; a new one is to be added to "
                    f"its annotations first"
                )


def new_categories(edit: Member) -> list[tuple[str, str]]:
    """(setting of the edit, category that it names) of new labels."""
    settings = EDITS.settings(edit.name, edit.settings)
    values = [(field, getattr(settings, field, None) or []) for field in ("category", "occluder_category")]
    return [(field, name) for field, names in values for name in ([names] if isinstance(names, str) else names)]


def check_triple(edit: str, painter: str, composite: str) -> None:
    """Raises AugmentError that lists what is allowed, where a painter does not serve the edit or the composite, or a
    name is not known."""
    for family, name in ((EDITS, edit), (PAINTERS, painter), (COMPOSITES, composite)):
        if name not in family:
            raise unknown(family.kind, name, family)
    served = sorted(PAINTERS[painter].EDITS)
    if edit not in served:
        able = ", ".join(name for name in PAINTERS if edit in PAINTERS[name].EDITS)
        hint = f"{edit!r} can be painted by {able}" if able else f"no painter serves {edit!r}"
        raise AugmentError(f"painter {painter!r} does not serve edit {edit!r}: it serves {', '.join(served)}; {hint}")
    if COMPOSITES[composite].NEEDS_DECODER and not PAINTERS[painter].HAS_DECODER:
        able = ", ".join(name for name in COMPOSITES if not COMPOSITES[name].NEEDS_DECODER)
        raise AugmentError(
            f"composite {composite!r} needs a painter with a decoder, and {painter!r} has none: with it go {able}"
        )
