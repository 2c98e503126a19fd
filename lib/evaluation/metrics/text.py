"""Does a picture show what its text says? CLIP score, a pure function of embeddings.

    scorer = RegionScorer(settings, ref)                                                   # of lib/judges/clip.py
    clip_score(scorer.embed_pictures(pictures), scorer.embed_texts(captions))              # (N,), 0 .. 2.5

or in one step `scorer.similarity(pictures, captions)`, which also returns which captions were cut. Scores of different
CLIPs are not comparable, nor is a single one of them a verdict: read means beside those of the real pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.vision import cosines, scaled

DEPICTS = "A photo depicts "  # what the paper puts before each caption; the caller's choice


def clip_score(pictures: Any, texts: Any) -> NDArray[np.float64]:
    """(N,) CLIP-S of picture embeddings (N, D) with the embedding (N, D) of the text in the same row, 0 .. 2.5.

    2.5 · max(cos(picture, text), 0) (Hessel et al. 2021, arXiv 2104.08718). Others report 100 · max(cos, 0): 40 times
    this. Raises ValueError for other shapes, or for numbers that are not finite.
    """
    return scaled(cosines(pictures, texts))
