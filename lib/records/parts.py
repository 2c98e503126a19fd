"""Parts: hash buckets of the pictures in which a stage's rows lie, so that a new picture touches one part."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from lib.core.keys import hash_draw

# Pictures in a part: 64 are seconds of copy-paste, minutes of diffusion. A large set has larger parts, since each costs
# the orchestrator tens of milliseconds a stage: at 10,000 pictures 64 parts, at 118,000 256.
SMALL_PART, LARGE_PART, PARTS = 64, 512, 64

# Where the seconds of a picture are known: a part's tasks may add this share of its work, and no more parts are made
# than bring each worker so many, since the one that ends last then has at most 1/64 of a worker's work left.
TASK_SHARE, PARTS_A_WORKER = 0.01, 64
LEAST_PART = 4  # pictures, where there are workers enough for fewer
_TOLERANCE = 4  # times that a number of parts may be too large or too small before it is worth to make all of them anew


class PartSize(msgspec.Struct, forbid_unknown_fields=True):
    """What a workspace keeps of how its pictures were split, so that a run does not split them otherwise."""

    work: str  # key of what is done with a picture
    seconds: Annotated[float, msgspec.Meta(ge=0)]  # of a worker, for a picture in all its variants, as the first took
    parts: Annotated[int, msgspec.Meta(ge=1, le=2**20)]  # a power of two


def part_count(rows: int, wanted: int = 1) -> int:
    """How many parts so many rows lie in: a power of two, so that fewer parts are unions of more.

    wanted: into how many even few rows are split, four in a part at least.
    """
    if not rows:
        return 1
    return _power_above(max(min(rows / SMALL_PART, PARTS), rows / LARGE_PART, min(wanted, rows / LEAST_PART)))


def sized_count(rows: int, seconds: float, workers: int, cost: float) -> int:
    """`part_count` where it is known how many seconds each row takes one of the workers.

    cost: seconds that the tasks of a part take beside its work. They are less than 1 % of it, but where a part of
    LARGE_PART rows, as many as memory is planned for, does not last that long, or where workers would have nothing to
    do. A part of rows that take long has few of them, LEAST_PART at least.
    """
    if not rows:
        return 1
    least = max(rows / LARGE_PART, min(2 * workers, rows / LEAST_PART))
    most = min(rows * seconds * TASK_SHARE / cost, PARTS_A_WORKER * workers, rows / LEAST_PART)
    return max(_power_above(least), _power_below(most))


def fits(count: int, wanted: int) -> bool:
    """Is a number of parts near enough to the best one? All parts are made anew where it changes."""
    return wanted / _TOLERANCE < count < wanted * _TOLERANCE


def _power_above(count: float) -> int:
    return 2 ** math.ceil(math.log2(max(count, 1)))


def _power_below(count: float) -> int:
    return 2 ** math.floor(math.log2(max(count, 1)))


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
