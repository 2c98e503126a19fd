"""Painters of grey: nothing that anyone could recognise, in no time."""

import numpy as np

from lib.core.registry import MemberSettings
from lib.painting.painters import Paint


class Grey:
    """One grey everywhere."""

    VERSION, EDITS, MODEL, LICENCE = 1, frozenset({"replace"}), None, "none needed"
    MAX_BOXES, READS_PHRASES, HAS_DECODER, NEEDS_DONOR, batch_size = None, False, False, False, 1

    class Settings(MemberSettings):
        pass

    def __init__(self, settings):
        self.settings = settings

    def check(self):
        pass

    shape = staticmethod(lambda settings, width, height: (height, width))

    def level(self, item):
        return 128

    def paint(self, batch):
        return [Paint(np.full_like(item.canvas, self.level(item))) for item in batch]


class Shades(Grey):
    """A grey of each pass's own, so that few pictures are equal."""

    def level(self, item):
        return 40 + item.step.seed % 180
