"""Names to things that are imported on first use.

COMMANDS = Registry("command", {"status": "flows.commands.workspace:Status"})
COMMANDS["status"]                                  # imports and returns the class
with COMMANDS.adding("mine", "mine:Mine"): ...      # one more, for tests and trials
import_later("numpy")                               # `import numpy` binds it, its first use imports it
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from lib.core.errors import unknown

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Lazy mapping of names to "module:attribute"; an unknown name raises AugmentError that lists the known ones."""

    def __init__(self, kind: str, members: dict[str, str]) -> None:
        self.kind = kind
        self._members = members

    def __getitem__(self, name: str) -> T:
        if name not in self._members:
            raise unknown(self.kind, name, self._members)
        module, _, attribute = self._members[name].partition(":")
        member: T = getattr(importlib.import_module(module), attribute)
        return member

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @contextmanager
    def adding(self, name: str, target: str) -> Iterator[None]:
        """One more member while the block runs: for tests, and to try one out. target: "module:attribute".

        Raises ValueError where the name is taken.
        """
        if name in self._members:
            raise ValueError(f"{self.kind} {name!r} is registered already: choose another name")
        self._members[name] = target
        try:
            yield
        finally:
            del self._members[name]
