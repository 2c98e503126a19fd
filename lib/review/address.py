"""Where a run is reviewed: the port and the token of its page, noted in the workspace for its owner alone.

    address = address_of(root)          # the same after a restart, so that an open page finds its server again

The note is `<workspace>/.review.json`, mode 0600. On a disk that keeps no modes, or in a workspace that cannot be
written, nothing is noted, and each start makes a new address.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from lib.core.files import write_private
from lib.records.kept import FAULTS

HOST = "127.0.0.1"
_NAME = ".review.json"


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    token: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{32,100}\Z")]


@dataclass(frozen=True)
class Address:
    """Of a page."""

    port: int  # 0: any free one
    token: str

    @property
    def link(self) -> str:
        """What a browser opens; who has it may decide."""
        return f"http://{HOST}:{self.port}/{self.token}/"


def noted_address(root: Path) -> Address | None:
    """The address of the last page of a workspace; None where there is none that its owner alone can read."""
    path = root / _NAME
    try:
        if path.is_symlink() or path.stat().st_mode & 0o077 or path.stat().st_uid != os.getuid():
            return None
        note = msgspec.json.decode(path.read_bytes()[:1000], type=_Note)
    except (OSError, *FAULTS):
        return None
    return Address(note.port, note.token)


def address_of(root: Path, port: int = 0) -> Address:
    """The noted address, or a new one. port: that is wanted; 0: the noted one, or any."""
    noted = noted_address(root)
    token = noted.token if noted else secrets.token_urlsafe(32)
    return Address(port or (noted.port if noted else 0), token)


def note_address(root: Path, address: Address) -> None:
    """Write the note, where its owner alone can read it."""
    write_private(root / _NAME, msgspec.json.encode(_Note(address.port, address.token)))
