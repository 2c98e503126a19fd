"""What tests put into the workers of a Dask cluster: a slow painter, and one that ends its process."""

from __future__ import annotations

import os
import signal
import time

from distributed import WorkerPlugin

import tasks.generate
from lib.painting.generate import generate_pictures
from lib.painting.painters.copy_paste import CopyPaste

_paint = CopyPaste.paint


class Slow(WorkerPlugin):
    """A painter that needs a moment for each picture. deadly: the image key whose part ends the process; "": none."""

    name = "slow"

    def __init__(self, seconds: float = 0.0, deadly: str = "") -> None:
        self.seconds, self.deadly = seconds, deadly

    def setup(self, worker) -> None:
        seconds, deadly = self.seconds, self.deadly

        def paint(self, batch):
            time.sleep(seconds * len(batch))
            return _paint(self, batch)

        def generate(plan, *rest):
            if deadly and deadly in set(plan.image_key):
                os.kill(os.getpid(), signal.SIGKILL)
            return generate_pictures(plan, *rest)

        CopyPaste.paint, tasks.generate.generate_pictures = paint, generate

    def teardown(self, worker) -> None:
        CopyPaste.paint, tasks.generate.generate_pictures = _paint, generate_pictures
