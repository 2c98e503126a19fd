"""Our GLIGEN beside diffusers' own pipeline on the same weights, requests, scheduler and steps. Asserts no times.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_gligen_speed.py

On a CPU with the mini weights, on a GPU with the published architecture and random weights in half precision. The peer
paints one picture at a time, as BLIP-2 + GLIGEN does, since it gives a whole batch one layout.
"""

import gc
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.checkpoints import ModelRef, resolve
from lib.core.compute import available_cores
from lib.painting.painters import PAINTERS, PassInput
from lib.painting.painters.blocks import LatentDiffusion, load_latent_diffusion, text_encoding
from lib.painting.painters.schedulers import make_scheduler
from lib.records.requests import Pass

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3000)]

GPU = torch.cuda.is_available()
SIDE, STEPS, COUNT, ROUNDS = (512, 50, 32, 3) if GPU else (128, 25, 8, 3)
PROMPT, PHRASES = "a forklift and a pallet", ("forklift", "pallet")
BOXES = ((8, 8, 60, 60), (60, 30, 120, 120))  # of 128


def passes() -> list[PassInput]:
    scale = SIDE / 128
    boxes = tuple(tuple(value * scale for value in box) for box in BOXES)
    common = {"window": (0, 0, SIDE, SIDE), "shape": (SIDE, SIDE), "region": ((0, 0, SIDE, SIDE),)}
    fields = {"boxes": boxes, "phrases": PHRASES, "prompt": PROMPT, "negative_prompt": ""}
    canvas, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.ones((SIDE, SIDE), bool)
    return [PassInput(Pass(**common, **fields, seed=seed), canvas, mask) for seed in range(COUNT)]


def peer(model: LatentDiffusion, scheduler) -> object:
    from diffusers import StableDiffusionGLIGENPipeline

    half = model.unet.dtype
    parts = model.vae.to(half), model.text_encoder.to(half), model.tokenizer, model.unet, scheduler
    pipe = StableDiffusionGLIGENPipeline(*parts, None, None, False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def peer_paints(pipe, work: list[PassInput], guidance: float) -> None:
    for item in work:
        pipe(
            PROMPT,
            height=SIDE,
            width=SIDE,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            gligen_scheduled_sampling_beta=1.0,
            gligen_phrases=list(PHRASES),
            gligen_boxes=[[value / 128 for value in box] for box in BOXES],
            generator=torch.Generator(pipe.device).manual_seed(item.step.seed),
        )


def published_architecture() -> LatentDiffusion:
    """Stable Diffusion 1.4 with gates, random weights, on the GPU."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from tiny import _clip_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel

    where, tokenizer = torch.device("cuda"), _clip_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_type="gated", sample_size=64)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        end = len(tokenizer) - 1
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, eos_token_id=end)
        )
    unet.to(where, torch.float16, memory_format=torch.channels_last).eval().requires_grad_(False)
    for block in (vae, text):
        block.to(where).eval().requires_grad_(False)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return LatentDiffusion(unet, vae, text, tokenizer, schedule, where, text_encoding(text, tokenizer, where))


def timed(paint) -> tuple[float, float]:
    """Pictures per second, and the peak of memory in GiB: of the GPU, or of this process."""
    gc.collect()
    status = Path("/proc/self/status")
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    elif status.exists():
        Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    paint()
    if GPU:
        torch.cuda.synchronize()
    rate = COUNT / (time.perf_counter() - start)
    if GPU:
        return rate, torch.cuda.max_memory_allocated() / 2**30
    peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), "0 0")
    return rate, int(peak.split()[1]) / 2**20


def test_gligen_beside_diffusers_pipeline():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    kind, mini = PAINTERS["gligen"], PAINTERS["gligen"].MINI
    guidance = 7.5 if GPU else mini["guidance"]
    settings = kind.Settings(size=SIDE, steps=STEPS, guidance=guidance, scheduler="ddim", batch_size=16)
    ours = kind(settings, ModelRef("random", "0", Path("/nowhere")) if GPU else resolve("mini:gligen", {}))
    ours._model = published_architecture() if GPU else ours._loaded()
    theirs = published_architecture() if GPU else load_latent_diffusion(resolve("mini:gligen", {}), {}, torch.float32)
    pipe = peer(theirs, make_scheduler("ddim", theirs.scheduler_config, STEPS, theirs.device))
    work, threads = passes(), torch.get_num_threads()
    ways = {
        "this project": lambda: ours.paint(work),
        "diffusers' pipeline": lambda: peer_paints(pipe, work, guidance),
    }
    if not GPU:
        ways["the same, on one thread"] = lambda: on_threads(1, lambda: peer_paints(pipe, work, guidance), threads)
    for way in ways.values():
        way()
    found = {name: [timed(way) for _ in range(ROUNDS)] for name, way in ways.items()}
    best = {name: max(rate for rate, _ in runs) for name, runs in found.items()}
    place = torch.cuda.get_device_name() if GPU else f"{available_cores()} CPU cores, {threads} torch threads"
    print(f"\n{COUNT} pictures of {SIDE}×{SIDE}, {STEPS} steps, {place}; best of {ROUNDS}")
    print("| | pictures/s | peak memory, GiB | this project's ratio |\n|---|---|---|---|")
    for name, runs in found.items():
        ratio = best["this project"] / best[name]
        print(f"| {name} | {best[name]:.2f} | {max(peak for _, peak in runs):.2f} | {ratio:.2f} |")


def on_threads(count: int, run, before: int) -> None:
    torch.set_num_threads(count)
    try:
        run()
    finally:
        torch.set_num_threads(before)
