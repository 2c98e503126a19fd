"""Pictures that are begun and done, a line each in the file that AUGMENT_COUNTED names; imported by whoever paints.

A line is written by one call, so that what a killed process had begun stands there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from lib.painting.painters.copy_paste import CopyPaste
from lib.records.store import Store

PAUSE = 0.05  # seconds a picture takes longer, so that there is something to kill

_paint, _put = CopyPaste.paint, Store.put


def _note(what: str) -> None:
    with Path(os.environ["AUGMENT_COUNTED"]).open("ab", buffering=0) as file:
        file.write(f"{os.getpid()} {what}\n".encode())


def _counted_paint(self, batch):
    for _ in batch:
        _note("begun")
    time.sleep(PAUSE * len(batch))
    return _paint(self, batch)


def _counted_put(self, kind, key, data, *rest, **more):
    made = _put(self, kind, key, data, *rest, **more)
    if kind == "picture":
        _note(f"done {key}")
    return made


CopyPaste.paint, Store.put = _counted_paint, _counted_put
