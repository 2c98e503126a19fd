"""The real pictures that lie beside the checkout; tests that need them skip where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def shared(*parts: str) -> Path:
    """A file or folder of the shared data; skips the test, with a reason, where it is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real pictures not here: {'/'.join(parts)} is missing from the shared data folder")
    return path
