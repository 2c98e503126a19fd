"""Parts: hash buckets of the pictures in which a stage's rows lie, so that a new picture touches one part."""

from __future__ import annotations

import math

from lib.core.keys import hash_draw

# Pictures in a part: 64 are seconds of copy-paste, minutes of diffusion. A large set has larger parts, since each costs
# the orchestrator tens of milliseconds a stage: at 10,000 pictures 64 parts, at 118,000 256.
SMALL_PART, LARGE_PART, PARTS = 64, 512, 64


def part_count(rows: int, wanted: int = 1) -> int:
    """How many parts so many rows lie in: a power of two, so that fewer parts are unions of more.

    wanted: into how many even few rows are split, four in a part at least.
    """
    if not rows:
        return 1
    count = max(min(rows / SMALL_PART, PARTS), rows / LARGE_PART, min(wanted, PARTS, rows / 4))
    return int(2 ** max(0, math.ceil(math.log2(count))))


def part_name(number: int, count: int, sha256: str = "") -> str:
    """The file of a part. sha256: of the manifest whose rows it has, so that a file of this name never changes."""
    return f"{sha256[:16]}{'-' if sha256 else ''}{number:04d}-of-{count:04d}.parquet"


def part_of_name(name: str) -> tuple[int, int]:
    """(number, count) of a part's file."""
    number, _, count = name.removesuffix(".parquet").partition("-of-")
    return int(number), int(count)


def part_number(key: str, count: int) -> int:
    """The part that a key is in, of `count`."""
    return hash_draw("part", key) % count
