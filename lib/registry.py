"""A family: names to members, imported only when asked for.

A member is one file plus one line here-shaped: `"feather": "lib.composites.feather:Feather"`. Each member declares its
settings as a nested pydantic class `Settings` (all with defaults), so that a bare name is a complete choice.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lib.errors import AugmentError


class MemberSettings(BaseModel):
    """Base of every member's settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Family(Mapping[str, Any]):
    """Lazy registry: `PAINTERS["gligen"]` imports and returns the class; an unknown name lists the known ones."""

    def __init__(self, kind: str, members: dict[str, str]) -> None:
        self.kind = kind
        self._members = members

    def __getitem__(self, name: str) -> Any:
        if name not in self._members:
            raise AugmentError(f"unknown {self.kind} {name!r}: known are {', '.join(sorted(self._members))}")
        module, _, attribute = self._members[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def settings(self, name: str, values: Mapping[str, Any]) -> Any:
        """The member's validated settings; raises AugmentError that names the wrong field and the known ones."""
        settings = self[name].Settings
        try:
            return settings(**values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(p) for p in first["loc"])
            known = ", ".join(settings.model_fields) or "none"
            raise AugmentError(
                f"{self.kind} {name!r}, setting {place!r}: {first['msg']} (got {first['input']!r}); it has: {known}"
            ) from None
