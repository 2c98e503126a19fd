"""Where weights come from: published checkpoints, mini models, or a folder. Revisions are pinned in models.lock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelRef:
    """A checkpoint that cannot change under us."""

    id: str  # hub id, or the folder as given
    revision: str  # commit hash of the hub, or "sha256:..." over a folder's files
    path: Path | None  # local folder; None = the hub's cache, by id and revision
