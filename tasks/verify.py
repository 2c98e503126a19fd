"""verify: every file of the store read again; a damaged one is removed, so that the stages make it anew."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from lib.records.rows import OK, REJECTED
from lib.records.store import Store
from tasks.artifacts import show_counts
from tasks.engine import step
from tasks.progress import advance
from tasks.run import Run


def verify_store(run: Run) -> None:
    """Where the run is to verify: the store's items by whether they are whole. Sources and final set: their stages."""
    if not run.verify:
        return
    items = list(run.store.items())
    run.progress.start("verify", len(items))
    damaged = read_store(str(run.root), items)
    run.progress.finish("verify")
    reasons = ["item_damaged"] * sum(damaged.values()) + [""] * (len(items) - sum(damaged.values()))
    rows = pd.DataFrame({"status": [REJECTED if reason else OK for reason in reasons], "reason": reasons})
    kinds = {f"damaged: {kind}": count for kind, count in sorted(damaged.items())}
    run.count("verify", rows, painted=0, reused=len(items) - sum(damaged.values()), **kinds)
    show_counts(run, "verify")


@step(name="verify")
def read_store(workspace: str, items: list[tuple[str, str]]) -> dict[str, int]:
    """Damaged items by kind; reading removes them."""
    store = Store(Path(workspace) / "store")

    damaged: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (kind, _), bad in zip(items, pool.map(lambda item: store.get(*item) is None, items), strict=True):
            damaged[kind] += bad
            advance(workspace, "verify", 1)  # here: a call to the server from a passing thread leaves its socket open
    return dict(+damaged)
