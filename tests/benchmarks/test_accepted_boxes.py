"""Seconds per accepted box: the seeds' settings, and what `augment tune` finds, on the demo set. Asserts no times.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_accepted_boxes.py

The mini model, with the 50 steps of PNDM and the guidance of BLIP-2 + GLIGEN and of LOCO occlusion inpainting as the
run's own settings; beside it diffusers' pipeline with the same settings, which paints one picture after the other.
"""

import logging
import os
import time
import warnings
from pathlib import Path

import pytest
import torch

from lib.core.checkpoints import resolve
from lib.painting.painters import PAINTERS
from lib.painting.painters.blocks import load_latent_diffusion
from lib.painting.painters.schedulers import make_scheduler
from lib.runs.parameters import check_parameters
from lib.runs.tune import tune

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(7200)]

DEMO = Path(__file__).parents[2] / "data" / "demo"
BOXES = int(os.environ.get("BOXES", "64"))
SEED = {"name": "gligen-inpaint", "steps": 50, "scheduler": "pndm", "guidance": 7.5, "grounding": 1.0}
PEER = 8  # pictures that the pipeline paints


def test_seconds_per_accepted_box(tmp_path):
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    dataset = {"images": str(DEMO / "images"), "annotations": str(DEMO / "annotations.json")}
    values = {"dataset": dataset, "preset": "gligen-inpainting", "models": "mini", "painter": SEED}
    tuning = tune(check_parameters(values), tmp_path, BOXES)
    print(f"\n{tuning.trials[0].boxes} boxes a trial; {tuning.painter}, mini")
    print("| settings | seconds | accepted | seconds an accepted box |\n|---|---|---|---|")
    checked = [("the run's own, on other boxes: ", tuning.own), ("chosen, on other boxes: ", tuning.chosen)]
    for head, trial in [*(("", one) for one in tuning.trials), *checked]:
        print(f"| {head}{trial.words} | {trial.seconds:.1f} | {trial.share:.2f} | {trial.per_accepted:.2f} |")
    print(tuning.sentence, *tuning.notes, sep="\n")
    size = PAINTERS["gligen-inpaint"].MINI["size"]
    print(f"diffusers' pipeline, the seeds' settings, {size}×{size}: {peer(size):.2f} s a pass")


def peer(size: int) -> float:
    """Seconds a pass of diffusers' pipeline with the seeds' settings."""
    from diffusers import StableDiffusionGLIGENPipeline

    model = load_latent_diffusion(resolve("mini:gligen-inpaint", {}), {}, torch.float32)
    scheduler = make_scheduler(SEED["scheduler"], model.scheduler_config, SEED["steps"], model.device)
    pipe = StableDiffusionGLIGENPipeline(
        model.vae, model.text_encoder, model.tokenizer, model.unet, scheduler, None, None, False
    )
    pipe.set_progress_bar_config(disable=True)
    from PIL import Image

    canvas = Image.open(next((DEMO / "images").iterdir())).convert("RGB").resize((size, size))
    begun = time.perf_counter()
    for seed in range(PEER):
        pipe(
            "a forklift",
            height=size,
            width=size,
            num_inference_steps=SEED["steps"],
            guidance_scale=SEED["guidance"],
            gligen_scheduled_sampling_beta=1.0,
            gligen_phrases=["forklift"],
            gligen_boxes=[[0.2, 0.2, 0.7, 0.8]],
            gligen_inpaint_image=canvas,
            generator=torch.Generator().manual_seed(seed),
        )
    return (time.perf_counter() - begun) / PEER
