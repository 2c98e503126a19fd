"""Presets and members as rows of texts for a person: `augment presets`.

It reads the presets and the members' constants alone, so that a list starts without what a run needs.
"""

from __future__ import annotations

from lib.captioning.captioners import CAPTIONERS
from lib.painting.painters import PAINTERS
from lib.runs.presets import PRESETS


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
