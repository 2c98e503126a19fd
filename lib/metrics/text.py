"""Does a picture show what its text says? CLIP score, a pure function of embeddings.

    seen, said = scorer.embed_pictures(pictures), scorer.embed_texts(captions)     # a RegionScorer of lib/regions.py
    clip_score(seen, said)                                                         # (N,), 0 .. 2.5

or in one step `scorer.similarity(pictures, captions)`, which also tells which captions were cut. Scores of different
CLIPs are not comparable, nor is a single one of them a verdict: read means beside those of the real pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHT = 2.5  # of the paper, which stretches the usual cosines of about 0 .. 0.4 to about 0 .. 1
DEPICTS = "A photo depicts "  # what the paper puts before each caption; the caller's choice


def clip_score(pictures: Any, texts: Any) -> NDArray[np.float64]:
    """(N,) CLIP-S of picture embeddings (N, D) with the embedding (N, D) of the text in the same row, 0 .. 2.5.

    2.5 · max(cos(picture, text), 0) (Hessel et al. 2021, arXiv 2104.08718). Others tell 100 · max(cos, 0): 40 times
    this. Raises ValueError for other shapes, or for numbers that are not finite.
    """
    return scaled(cosines(pictures, texts))


def scaled(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """CLIP-S of cosines."""
    return WEIGHT * np.maximum(cosine, 0)


def cosines(x: Any, y: Any) -> NDArray[np.float64]:
    """(N,) cosine of each row of x (N, D) with the same row of y (N, D), −1 .. 1; 0 where one is all zeros.

    Raises ValueError as `clip_score`.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"embeddings of shapes {x.shape} and {y.shape}: expected (N, D) twice, a text for each picture"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("embeddings hold numbers that are not finite: the model's weights are damaged")
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    told = np.divide((x * y).sum(axis=1), lengths, out=np.zeros(len(x)), where=lengths > 0)
    return np.clip(told, -1, 1)  # rounding leaves parallel rows a little outside
