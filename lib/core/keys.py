"""Content keys and draws: SHA-256 of a canonical form. A draw depends on what it is for, never on an order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain values and models: sorted keys, no spaces, UTF-8. ValueError on NaN or infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)
    return text.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def key_of(*parts: Any) -> str:
    """SHA-256 over the canonical JSON of the parts, hex."""
    return hashlib.sha256(canonical(list(parts))).hexdigest()


def key_of_texts(*parts: Any, texts: Iterable[Iterable[str]]) -> str:
    """`key_of` of the parts and of lists of texts, of which no more than one text is held at once."""
    found = hashlib.sha256(canonical([*parts, []]).removesuffix(b"]]"))
    for i, some in enumerate(texts):
        found.update(b",[" if i else b"[")
        for k, text in enumerate(some):
            found.update(b"," * (k > 0) + canonical(text))
        found.update(b"]")
    found.update(b"]]")
    return found.hexdigest()


def hash_draw(*parts: Any) -> int:
    """A 63-bit number from SHA-256 over the parts: seed, edit, source digest, annotation ids, variant, purpose."""
    return int(key_of(*parts)[:16], 16) >> 1
