"""Review: what a person picked, by file name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lib.core.errors import AugmentError
from lib.core.files import files_below
from lib.core.images import SUFFIXES
from lib.datasets.formats.tables import read_text, split_lines
from lib.records.rows import REJECTED
from lib.records.settings import ReviewSettings


def review_pictures(screened: pd.DataFrame, settings: ReviewSettings) -> tuple[pd.DataFrame, list[str]]:
    """ReviewRows of the ScreenRows that are ok, and the picked names that fit none of them.

    Names count without their suffix, so a copy of the drawn or of the plain picture picks the same; what is in the
    picked files is ignored. Raises AugmentError where `review.path` is missing from the settings, or is not the
    folder or file that `review.pick` needs.
    """
    rows = screened[["key", "status", "reason", "detail", "image_key", "picture", "sha256", "name", "boxes"]].copy()
    if settings.pick == "all":
        return rows, []
    picked = _picked(settings)
    stems = rows.name.map(_stem)
    left = ~stems.isin(picked)
    rows.loc[left, ["status", "reason"]] = [REJECTED, "not_picked"]
    rows.loc[left, "detail"] = f"not in {settings.path}"
    return rows, sorted(picked - set(stems))


def check_review(settings: ReviewSettings) -> None:
    """Raises AugmentError where the folder or list to pick from is missing: a slip must not empty the final set."""
    path, kind = settings.path, settings.pick
    if kind == "all":
        return
    if path is None:
        raise AugmentError(f"review.pick is {kind!r} but review.path is not set: give the {kind}")
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        what, hint = "text file", "write one name a line"
        if kind == "folder":
            what, hint = "folder", "copy what you want from the workspace's drawn/ into one"
        raise AugmentError(f"review.path {path} is not a {what}: {hint}")


def _picked(settings: ReviewSettings) -> set[str]:
    """Stems of the picked names."""
    check_review(settings)
    path = settings.path or Path()
    if settings.pick == "folder":
        return {_stem(file.name) for file in files_below(path, *SUFFIXES)}
    return {_stem(line) for line in split_lines(read_text(path)) if line}


def _stem(name: str) -> str:
    """A name without its suffix, where it has a picture's one: names may hold other dots."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name
