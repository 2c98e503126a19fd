"""Presets and members as rows of texts for a person: `augment presets`.

It reads the presets and the members' constants alone, so that a list starts without what a run needs.
"""

from __future__ import annotations

import json
from pathlib import Path

from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import FACTS
from lib.painting.painters import PAINTERS
from lib.runs.presets import PRESETS

_MODELS = Path(__file__).resolve().parents[2] / "data" / "models"


def preset_rows() -> list[dict[str, str]]:
    """One row per preset: its triple, checkpoints with their licences, and the system that it replaces."""
    rows = []
    for name, preset in PRESETS.items():
        captioner = preset.get("caption", {}).get("captioner", {"name": "template"})
        members = PAINTERS[preset["painter"]["name"]], CAPTIONERS[captioner["name"]]
        checkpoints = [f"{member.MODEL} ({member.LICENCE})" for member in members if member.MODEL]
        rows.append(
            {
                "preset": name,
                **{kind: preset[kind]["name"] for kind in ("edit", "painter", "composite")},
                "checkpoints": "; ".join(checkpoints) or "none needed",
                "replaces": preset["replaces"],
                "about": preset["about"],
            }
        )
    return rows


def model_rows() -> list[dict[str, str]]:
    """One row per small model that comes with the project: what it learned from, and under which terms it is used."""
    rows = []
    for path in sorted(_MODELS.glob(f"*/*/{FACTS}")):
        facts = json.loads(path.read_bytes())
        folder = path.parent.relative_to(_MODELS.parents[1]).as_posix()
        terms = str(facts.get("terms", ""))
        rows.append({"model": folder, "learned from": facts["data"], "terms": terms or "Apache-2.0"})
    return rows


def member_rows() -> list[dict[str, str]]:
    """One row per painter and captioner: what it serves, its checkpoint and licence."""
    return [
        {
            "member": f"{family.kind} {name}",
            "serves": ", ".join(sorted(getattr(member, "EDITS", ()))) or "captions",
            "checkpoint": member.MODEL or "none needed",
            "licence": member.LICENCE if member.MODEL else "",
        }
        for family in (PAINTERS, CAPTIONERS)
        for name, member in family.items()
    ]
