"""Presets as data. To add one: an entry below."""

from __future__ import annotations

from typing import Any

# BLIP-2 + GLIGEN takes pictures with exactly one category and fewer than 7 boxes.
_COCO_GLIGEN_SELECT = {"max_objects": 6, "max_categories": 1, "require_objects": True}
_COCO_GLIGEN_CAPTION = {"captioner": {"name": "blip2"}, "rules": "s3"}

# The three methods of LOCO occlusion inpainting; the edges of the occluder are theirs, the edit's defaults.
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
        "about": "rectangles with real objects of the same category over the objects of every picture; needs no model",
        "replaces": "the free baseline",
        "edit": {"name": "replace"},
        "painter": {"name": "copy-paste"},
        "composite": {"name": "feather"},
    },
    "insert": {
        "about": "real objects of the data set, cut out and set into free places of every picture; needs no model",
        "replaces": "copy-paste without what lies around the objects",
        "edit": {"name": "insert", "count": 2},
        "painter": {"name": "copy-paste"},
        "composite": {"name": "poisson"},
    },
    "insert-defects": {
        "about": "more defects of the kinds that a picture shows already, with what surrounds them; needs no model",
        "replaces": "copy-paste of defects onto any material",
        "edit": {"name": "insert", "count": 2, "present": True},
        "painter": {"name": "copy-paste", "cut": False},
        "composite": {"name": "poisson"},
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
        "about": "as loco-gligen, by Stable Diffusion XL, which receives no boxes",
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
        "about": "whole boxes, a little wider, painted anew by Stable Diffusion 2; variants: 4 as in that system",
        "replaces": "object replacement with Stable Diffusion 2",
        "edit": {"name": "replace", "padding": 0.03, "prompt": "a {category}"},
        "painter": {"name": "sd-inpaint", "steps": 50, "guidance": 8},
        "composite": {"name": "feather"},
    },
    "replace-z-image": {
        "about": "the objects painted anew by Z-Image Turbo, of free weights, in eight steps",
        "replaces": "inpainting with a model of today, in ComfyUI or by script",
        "edit": {"name": "replace", "prompt": "a photo of a {category}"},
        "painter": {"name": "diffusers-inpaint", "steps": 9, "guidance": 0},  # 9, of which its schedule uses 8
        "composite": {"name": "feather"},
    },
    "occlude-flux-fill": {
        "about": "a stack of boxes before every object, by FLUX.1 Fill; not for commercial use",
        "replaces": "inpainting with a model of today, in ComfyUI or by script",
        "edit": {"name": "occlude", "prompt": _STACK},
        "painter": {
            "name": "diffusers-inpaint",
            "model": "black-forest-labs/FLUX.1-Fill-dev",
            "steps": 50,
            "guidance": 30,
        },
        "composite": {"name": "feather"},
    },
    "replace-qwen-edit": {
        "about": "the objects painted anew by Qwen-Image-Edit, which follows long prompts, in 4 bits",
        "replaces": "inpainting with a model of today, in ComfyUI or by script",
        "edit": {"name": "replace", "prompt": "a photo of a {category}"},
        "painter": {"name": "diffusers-inpaint", "model": "Qwen/Qwen-Image-Edit", "quantize": "4bit", "guidance": 4},
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
