"""A real browser for tests, where there is one, and a small run to review in it.

Debian's chromium through Playwright, which downloads nothing here: `apt-get install chromium-headless-shell` (it opens
no windows, which cost `chromium` 8 CPU seconds; that does as well), or CHROMIUM=PATH.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = '<img src=x onerror="window.hacked=1">'
HOSTILE_FILE = "a\"'><script>window.hacked=1<!--.png"


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    names = (os.environ.get("CHROMIUM"), "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Skips the test where there is no browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium-headless-shell, or set CHROMIUM to its path")
    root = os.geteuid() == 0
    with playwright.sync_playwright() as one:
        started = one.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield started
        started.close()


def small_run(folder: Path, pictures: int = 10, variants: int = 3) -> Path:
    """The workspace of a finished run of copy-paste, `pictures` × `variants` painted, with names that are attacks."""
    from conftest import MadeSet

    from flows import augment_dataset

    made = MadeSet(folder / "made", pictures)
    made.coco["categories"][1]["name"] = HOSTILE
    record = made.coco["images"][0]
    (made.images / record["file_name"]).rename(made.images / HOSTILE_FILE)
    record["file_name"] = HOSTILE_FILE
    made.write()
    result = augment_dataset(**settings_of(folder), variants=variants)
    return result.workspace


def settings_of(folder: Path, workspace: Path | None = None) -> dict[str, object]:
    """Parameters of the small run."""
    return {
        "dataset": {
            "images": str(folder / "made" / "images"),
            "annotations": str(folder / "made" / "annotations.json"),
        },
        "preset": "copy-paste",
        "workspace": workspace or folder / "mine",
        "evaluate": {"extractor": None},
        "screen": {"duplicates": False},
    }


class Reviewer:
    """A page with its keys."""

    def __init__(self, page: Page, link: str) -> None:
        self.page, self.link, self.errors = page, link, list[str]()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.open()

    def open(self) -> None:
        """The page anew."""
        self.page.goto(self.link)
        self.page.wait_for_selector(".cell.current")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def said(self) -> str:
        return self.page.inner_text("#said")

    def drawn(self) -> None:
        """Until the page has drawn what was pressed, which it does in its next frame."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def progress(self) -> str:
        self.drawn()
        return self.page.inner_text("#progress")

    def saved(self) -> None:
        """Until the server has everything."""
        self.until("!JSON.parse(localStorage.getItem(`review ${location.pathname}`) ?? '[]').length")

    def until(self, condition: str, seconds: float = 60) -> None:
        """Until it is true in the page. Playwright's own way evaluates texts there, which the page's policy bars."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}"
            self.page.wait_for_timeout(20)

    def name(self) -> str:
        """Of the current picture."""
        self.drawn()
        return self.page.inner_text("#facts .facts-name")
