"""Export: a final set written in another tool's format, with a card that says what is in it.

result = export(data, "yolo", Path("data/mine-yolo"), provenance)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.datasets.export import EXPORTERS
from lib.datasets.export.card import CARD, Provenance, card, research_only
from lib.datasets.export.final_set import FinalSet
from lib.datasets.export.folder import replaced


@dataclass(frozen=True)
class Exported:
    """What was written."""

    format: str
    folder: str
    use: str  # how the tool is started with it
    splits: Mapping[str, Mapping[str, Any]]  # by split, as FinalSet.counts
    left_out: dict[str, int]  # reason → number
    notes: list[str]  # what a person must know

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def export(
    data: FinalSet,
    format: str,
    out: Path,
    provenance: Provenance,
    advance: Callable[[int], object] = lambda n: None,
) -> Exported:
    """Write the final set into the folder `out`, which is new, empty, or an earlier export that nobody changed.

    advance: receives 1 for each picture. Raises AugmentError where `out` is anything else, where a picture is not what
    the run wrote, and where the format cannot hold the set.
    """
    exporter = EXPORTERS[format]
    fitted = data.fitted(exporter)
    with replaced(out, format, advance) as files:
        exporter.write(fitted, files)
        files.write(CARD, card(fitted, format, exporter, provenance))
    use = exporter.USE.format(folder=out)
    research = [f"research only: {terms}" for terms in research_only(provenance)]
    notes = [*research, *fitted.notes, *files.notes]
    return Exported(format, str(out), use, fitted.counts, dict(sorted(fitted.left_out.items())), notes)
