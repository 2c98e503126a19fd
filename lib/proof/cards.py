"""Did a model that paints or judges see only the real training pictures? Its facts say which pictures it learned from.

check_models({"painter": folder, "judge": folder}, root / "split.json")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lib.core.errors import AugmentError
from lib.training.train import read_facts


def check_models(folders: Mapping[str, Path], split: Path) -> list[str]:
    """Raises AugmentError where a model learned from test pictures, or from more than the training pictures.

    folders: by what the model does; split: the file of both sides' digests. Returns what should be known of the others:
    of a published checkpoint nobody knows which pictures it saw.
    """
    sides = {name: {digest[:16] for digest in digests} for name, digests in json.loads(split.read_bytes()).items()}
    notes = []
    for what, folder in folders.items():
        facts = read_facts(folder)
        if not facts:
            notes.append(
                f"the {what} {folder} is no model of this project: which pictures it learned from is not known"
            )
            continue
        remedy = "let the proof train it on its own training pictures (`models`)"
        learned = set(facts.get("sources", []))
        if not learned:
            raise AugmentError(
                f"the {what} {folder} does not say which pictures it learned from, test pictures perhaps: {remedy}"
            )
        if seen := learned & sides["test"]:
            raise AugmentError(f"the {what} {folder} learned from {len(seen)} of the test pictures: {remedy}")
        if more := learned - sides["train"]:
            raise AugmentError(
                f"the {what} {folder} learned from {len(more)} pictures that the detector does not see: {remedy}"
            )
    return notes
