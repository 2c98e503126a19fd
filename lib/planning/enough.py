"""How many pictures a limit takes: as many, in the order of their hashes, as it needs for that many plans."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import pandas as pd

from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics
from lib.records.rows import OK
from lib.records.sorting import LaidRows

_LEAST, _MOST = 16, 512  # candidates that are looked at together


def enough(candidates: LaidRows, limit: int, come_out: Callable[[pd.DataFrame], Collection[str]]) -> int:
    """How many of the first candidates are needed so that `limit` of them come out; all where these are too few.

    candidates: SelectRows in the order of their hashes; come_out: the image keys of those, of some rows, that do.
    """
    found, start, size = 0, 0, min(limit, _MOST)
    while start < len(candidates):
        some = candidates[start : start + size]
        good = come_out(some)
        for place, key in enumerate(some.key, start + 1):
            found += key in good
            if found == limit:
                return place
        start += len(some)
        size = min(max(_LEAST, math.ceil((limit - found) * start / max(found, 1))), _MOST)
    return len(candidates)


def planned(
    selected: pd.DataFrame,
    objects: pd.DataFrame,
    prompts: Mapping[str, str],
    recipe: Recipe,
    statistics: Statistics,
    seed: int,
    variants: int,
) -> set[str]:
    """Image keys of the pictures that have at least one plan. Arguments as those of `plan_requests`."""
    rows = plan_requests(selected, objects, prompts, recipe, statistics, seed, variants)
    return {row.image_key for row in rows if row.status == OK}
