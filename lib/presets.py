"""Presets: a name for a triple edit × painter × composite and its values, and how a run's parameters are resolved.

To add one: an entry in PRESETS; `replaces` names the system that it stands for. Explicit values override
a preset; a bare name means that member with its defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from lib.captioners import CAPTIONERS
from lib.composites import COMPOSITES
from lib.edits import EDITS
from lib.errors import AugmentError, checked, unknown
from lib.painters import PAINTERS
from lib.recipe import check_triple
from lib.registry import Family
from lib.settings import (
    BoxScreenSettings,
    CaptionSettings,
    Choice,
    DatasetSettings,
    EvaluateSettings,
    FinaliseSettings,
    Models,
    ReviewSettings,
    ScreenSettings,
    SelectSettings,
    Settings,
)

# BLIP-2 + GLIGEN takes pictures with exactly one category and fewer than 7 boxes.
_COCO_GLIGEN_SELECT = {"max_objects": 6, "max_categories": 1, "require_objects": True}
_COCO_GLIGEN_CAPTION = {"captioner": {"name": "blip2"}, "rules": "s3"}

# The three methods of LOCO occlusion inpainting; each edge of the occluder as there, which are the edit's defaults.
_LOCO = {"select": {"categories": ["forklift"]}}
_STACK = "a stack of boxes"


def _latent_inpainting(painter: dict[str, Any], composite: dict[str, Any], about: str, replaces: str) -> dict[str, Any]:
    """A pipeline of zero-shot latent inpainting: given masks, painted with given prompts."""
    return {
        "about": about,
        "replaces": replaces,
        "caption": {"captioner": {"name": "given"}},
        "edit": {"name": "mask", "prompt": "{caption}"},
        "painter": painter,
        "composite": composite,
    }


_VANILLA = {"name": "vanilla", "steps": 100, "guidance": 10, "scheduler": "ddim"}
_BLURRED = {**_VANILLA, "mask_blur": [13, 10]}

PRESETS: dict[str, dict[str, Any]] = {
    "copy-paste": {
        "about": "real objects of the same category in the boxes of every picture; needs no model",
        "replaces": "the free baseline",
        "edit": {"name": "replace"},
        "painter": {"name": "copy-paste"},
        "composite": {"name": "feather"},
    },
    "gligen-generation": {
        "about": "a new picture for the same boxes, prompted by what BLIP-2 says of the old one",
        "replaces": "BLIP-2 and GLIGEN generation, without its limits",
        "caption": {"captioner": {"name": "blip2"}},
        "edit": {"name": "layout"},
        "painter": {"name": "gligen"},
        "composite": {"name": "none"},
    },
    "gligen-inpainting": {
        "about": "the objects in the boxes painted anew, the rest of the picture kept",
        "replaces": "BLIP-2 and GLIGEN inpainting, without its limits",
        "caption": {"captioner": {"name": "blip2"}},
        "edit": {"name": "replace"},
        "painter": {"name": "gligen-inpaint"},
        "composite": {"name": "feather"},
    },
    "coco-gligen-generation": {
        "about": "gligen-generation with the limits of the system that it replaces: one category, fewer than 7 boxes",
        "replaces": "BLIP-2 and GLIGEN for COCO classes, generation",
        "select": _COCO_GLIGEN_SELECT,
        "caption": _COCO_GLIGEN_CAPTION,
        "edit": {"name": "layout"},
        "painter": {"name": "gligen", "steps": 50, "guidance": 7.5, "grounding": 1.0},
        "composite": {"name": "none"},
    },
    "coco-gligen-inpainting": {
        "about": "gligen-inpainting with the limits of the system that it replaces: one category, fewer than 7 boxes",
        "replaces": "BLIP-2 and GLIGEN for COCO classes, inpainting",
        "select": _COCO_GLIGEN_SELECT,
        "caption": _COCO_GLIGEN_CAPTION,
        "edit": {"name": "replace"},
        "painter": {"name": "gligen-inpaint", "steps": 50, "guidance": 7.5, "grounding": 1.0},
        "composite": {"name": "feather"},
    },
    "loco-gligen": {
        "about": "a stack of boxes before the right lower part of every forklift",
        "replaces": "LOCO forklift occlusion, method gligen",
        **_LOCO,
        "edit": {"name": "occlude", "prompt": _STACK},
        "painter": {"name": "gligen-inpaint", "steps": 50, "guidance": 7.5, "grounding": 1.0},
        "composite": {"name": "feather"},
    },
    "loco-refined": {
        "about": "every forklift painted anew, then a stack of boxes before it",
        "replaces": "LOCO forklift occlusion, method refined",
        **_LOCO,
        "edit": {"name": "refine", "prompt": _STACK, "object_prompt": "a {category}"},
        "painter": {"name": "gligen-inpaint", "steps": 50, "guidance": 7.5, "grounding": 1.0},
        "composite": {"name": "feather"},
    },
    "loco-sdxl": {
        "about": "as loco-gligen, by Stable Diffusion XL, which is told no boxes",
        "replaces": "LOCO forklift occlusion, method sdxl",
        **_LOCO,
        "edit": {"name": "occlude", "prompt": _STACK},
        "painter": {"name": "sdxl-inpaint", "steps": 30, "guidance": 5},
        "composite": {"name": "feather"},
    },
    "pipe-vanilla": _latent_inpainting(
        _VANILLA,
        {"name": "none"},
        "given masks painted with given prompts, the rest held in the latents alone",
        "zero-shot latent inpainting, vanilla",
    ),
    "pipe-copy": _latent_inpainting(
        _VANILLA,
        {"name": "paste"},
        "pipe-vanilla with the known pixels put back",
        "zero-shot latent inpainting, BackgroundCopy",
    ),
    "pipe-blur": _latent_inpainting(
        _BLURRED,
        {"name": "none"},
        "pipe-vanilla with a soft mask",
        "zero-shot latent inpainting, MaskBlur",
    ),
    "pipe-copy-blur": _latent_inpainting(
        _BLURRED,
        {"name": "feather", "kernel": 13, "sigma": 10},
        "pipe-blur with the known pixels put back behind a soft rim: the best seam",
        "zero-shot latent inpainting, CopyAndBlur",
    ),
    "pipe-reconstruct": _latent_inpainting(
        _VANILLA,
        {"name": "reconstruct"},
        "pipe-vanilla with the decoder tuned to each picture",
        "zero-shot latent inpainting, BackgroundReconstruction",
    ),
    "pipe-reconstruct-lite": _latent_inpainting(
        _VANILLA,
        {"name": "reconstruct", "lite": True},
        "the same, of the decoder only its mid block and output convolution",
        "zero-shot latent inpainting, reconstruction lite",
    ),
    "pipe-blended": _latent_inpainting(
        {"name": "blended-latent"},
        {"name": "feather"},
        "Blended Latent Diffusion: the mask shrinks while the picture forms, so that small ones are not lost",
        "zero-shot latent inpainting, progressive mask shrinking (never finished there)",
    ),
    "pipe-td-paint": _latent_inpainting(
        {"name": "td-paint"},
        {"name": "feather"},
        "known pixels held at a low noise level, without the training of TD-Paint",
        "zero-shot latent inpainting, TD-Paint (never finished there)",
    ),
    "pipe-latentpaint": _latent_inpainting(
        {"name": "latentpaint"},
        {"name": "feather"},
        "known features kept inside the U-Net",
        "zero-shot latent inpainting, LatentPaint (never finished there)",
    ),
    "replace-sd2": {
        "about": "whole boxes, a little wider, painted anew by Stable Diffusion 2; variants: 4 as there",
        "replaces": "object replacement with Stable Diffusion 2",
        "edit": {"name": "replace", "padding": 0.03, "prompt": "a {category}"},
        "painter": {"name": "sd-inpaint", "steps": 50, "guidance": 8},
        "composite": {"name": "feather"},
    },
    "stay-defects": {
        "about": "defects painted into clean pictures at places that other pictures' defects have, by your own model",
        "replaces": "STAY diffusion, layout-to-image on industrial defects",
        "select": {"max_objects": 0},
        "edit": {"name": "insert", "count": 3, "context": 1, "min_window": 64},
        "painter": {"name": "stay"},
        "composite": {"name": "paste"},
    },
}

M = TypeVar("M", bound=BaseModel)


class Parameters(Settings):
    """Every parameter of the flow, as given: what is not set is taken from the preset, then from the defaults."""

    dataset: DatasetSettings
    select: SelectSettings = Field(default_factory=SelectSettings)
    preset: str = "copy-paste"
    caption: CaptionSettings = Field(default_factory=CaptionSettings)
    edit: str | Choice | None = None
    painter: str | Choice | None = None
    composite: str | Choice | None = None
    models: Models = "full"
    variants: int = Field(1, ge=1, le=1000)
    screen: ScreenSettings = Field(default_factory=ScreenSettings)
    review: ReviewSettings = Field(default_factory=ReviewSettings)
    finalise: FinaliseSettings = Field(default_factory=FinaliseSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    seed: int = 0
    limit: int | None = Field(None, ge=1)
    workspace: Path | None = None
    verify: bool = False


class Resolved(Settings):
    """Parameters with the preset merged in: what is saved with the run."""

    dataset: DatasetSettings
    select: SelectSettings
    preset: str
    caption: CaptionSettings
    captioner: Choice
    edit: Choice
    painter: Choice
    composite: Choice
    models: Models
    variants: int
    screen: ScreenSettings
    review: ReviewSettings
    finalise: FinaliseSettings
    evaluate: EvaluateSettings
    seed: int
    limit: int | None
    workspace: Path


def check_parameters(values: dict[str, Any]) -> Parameters:
    """Parameters from plain values; raises AugmentError that names the wrong one and the known ones."""
    return checked(Parameters, values)


def preset_of(name: str) -> dict[str, Any]:
    """What a preset says; raises AugmentError that lists the known ones."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def resolve_parameters(given: Parameters, workspace: Path) -> Resolved:
    """Preset and explicit values, merged. workspace: used where none is set.

    Raises AugmentError for an unknown name, and for members that do not go together.
    """
    preset = preset_of(given.preset)
    edit, painter = _choice(preset["edit"], given.edit), _choice(preset["painter"], given.painter)
    if given.models == "mini":
        painter = _for_mini(PAINTERS, painter, given.painter)
    composite = _choice(preset["composite"], given.composite)
    check_triple(edit.name, painter.name, composite.name)
    caption = _merged(CaptionSettings, preset.get("caption", {}), given.caption)
    return Resolved(
        select=_merged(SelectSettings, preset.get("select", {}), given.select),
        caption=caption,
        captioner=_captioner(preset, given.caption, given.models),
        edit=edit,
        painter=painter,
        composite=composite,
        workspace=given.workspace or workspace,
        **{
            name: getattr(given, name)
            for name in ("dataset", "preset", "models", "variants", "screen", "review", "finalise", "evaluate")
        },
        seed=given.seed,
        limit=given.limit,
    )


def _merged(model: type[M], preset: dict[str, Any], explicit: M) -> M:
    return model.model_validate({**preset, **explicit.model_dump(exclude_unset=True)})


def _choice(preset: dict[str, Any] | None, explicit: str | dict[str, Any] | Choice | None) -> Choice:
    """The explicit member; one without a name takes the preset's name, and of the same name adds to its values."""
    if explicit is None:
        return Choice(**(preset or {}))
    if isinstance(explicit, str):
        return Choice(name=explicit)
    if isinstance(explicit, dict):
        explicit = Choice(**explicit)
    if preset and explicit.name in ("", preset["name"]):
        return Choice(**{**preset, **explicit.values})
    if not explicit.name:
        raise AugmentError(f"values {explicit.values} without a name: say which member they are for")
    return explicit


def _captioner(preset: dict[str, Any], explicit: CaptionSettings, models: Models) -> Choice:
    """As `_choice`, where a preset need not name one."""
    base = _choice(None, preset.get("caption", {}).get("captioner", CaptionSettings().captioner))
    own = explicit.captioner if "captioner" in explicit.model_fields_set else None
    chosen = _choice(base.model_dump(), own)
    return _for_mini(CAPTIONERS, chosen, own) if models == "mini" else chosen


def _for_mini(family: Family, chosen: Choice, explicit: str | Choice | None) -> Choice:
    """With what the mini model was made for, where it was not given: a preset's values are for published models."""
    given = explicit.values if isinstance(explicit, Choice) else {}
    return Choice(**{"name": chosen.name, **chosen.values, **getattr(family[chosen.name], "MINI", {}), **given})


def preset_rows() -> list[dict[str, str]]:
    """One row per preset for a person: the triple, checkpoints and their licences."""
    rows = []
    for name, preset in PRESETS.items():
        painter = PAINTERS[preset["painter"]["name"]]
        captioner = CAPTIONERS[_choice(None, preset.get("caption", {}).get("captioner", "template")).name]
        used = [member for member in (painter, captioner) if member.MODEL]
        rows.append(
            {
                "preset": name,
                "edit": preset["edit"]["name"],
                "painter": preset["painter"]["name"],
                "composite": preset["composite"]["name"],
                "checkpoints": "; ".join(f"{member.MODEL} ({member.LICENCE})" for member in used) or "none needed",
                "stands for": preset["replaces"],
                "about": preset["about"],
            }
        )
    return rows


def member_rows() -> list[dict[str, str]]:
    """One row per painter and captioner for a person: what it serves, its checkpoint and licence."""
    rows = []
    for family in (PAINTERS, CAPTIONERS):
        for name, member in family.items():
            serves = ", ".join(sorted(getattr(member, "EDITS", ()))) or "captions"
            checkpoint = member.MODEL or "none needed"
            licence = member.LICENCE if member.MODEL else ""
            told = {"serves": serves, "checkpoint": checkpoint, "licence": licence}
            rows.append({"member": f"{family.kind} {name}", **told})
    return rows


def parameters_markdown() -> str:
    """docs/parameters.md: every parameter and every member's settings, from the code that reads them."""
    parts = [_INTRODUCTION]
    parts += [_table(f"`{name}`", model) for name, model in _GROUPS.items()]
    for family in (EDITS, PAINTERS, COMPOSITES, CAPTIONERS):
        parts += [_table(f"{family.kind} `{name}`", family[name].Settings) for name in family]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# Parameters

Made from the code by `.venv/bin/python -m lib.presets > docs/parameters.md`; a test holds the two together.

Each heading is one parameter of the flow: `--set select.max_objects=6` on the command line, a mapping in a YAML file,
`--param 'select={"max_objects": 6}'` in Prefect. `edit`, `painter`, `composite` and `caption.captioner` take a name, or
a name with that member's settings: `painter: {name: gligen, steps: 30}`. Explicit values override the preset's.

Plain ones: `preset` (copy-paste), `models` (full, or mini: the small ones in data/models), `variants` (1: pictures made
from each source), `seed` (0), `limit` (none: pictures at most, after selection), `workspace` (data/runs/NAME), `verify`
(false; true: all source pictures and all files of the store and the final set are read again, digests compared)."""

_GROUPS: dict[str, type[BaseModel]] = {
    "dataset": DatasetSettings,
    "select": SelectSettings,
    "caption": CaptionSettings,
    "screen": ScreenSettings,
    "screen.boxes": BoxScreenSettings,
    "review": ReviewSettings,
    "finalise": FinaliseSettings,
    "evaluate": EvaluateSettings,
}


def _table(title: str, model: type[BaseModel]) -> str:
    if not model.model_fields:
        return f"## {title}\n\nNo settings."
    lines = [f"## {title}", "", "| name | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        lines.append(f"| `{name}` | {default} | {(field.description or '').replace('|', '/')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(parameters_markdown(), end="")
