"""What each composite does to the background and the seam: the same paints, every way back. Asserts no times.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_composites_quality.py

The table of the zero-shot latent inpainting study at the size of the mini models: 20 scenes that no training has used,
one object of each painted anew. A window is as large as the painter's shape, so that no resampling is measured.
"""

import time

import numpy as np
import pytest

from lib.core.checkpoints import model_of, resolve
from lib.core.geometry import crop_window, outer_pixels, window_around, xywh_to_xyxy
from lib.core.keys import hash_draw
from lib.evaluation.metrics.pixels import gdiff, psnr
from lib.painting.canvas import canvas_of, mask_of, region_mask
from lib.painting.composites import COMPOSITES, compose
from lib.painting.painters import PAINTERS, PassInput
from lib.records.requests import Pass
from lib.scenes.warehouse import render, scene_seed

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3000)]

PAINTER = "vanilla"
SEED, COUNT, SIDE = 999, 20, 256  # the scenes that the models' cards are measured on; pixels
SHAPE = (128, 128)
PADDING = 0.03  # of the picture's width and height, half on each side
OBJECT = 48  # pixels: of each scene the object whose longer side is nearest, so that its window needs no scaling

ROWS = {
    "none": ("none", {}, None),
    "paste (copy)": ("paste", {}, None),
    "feather": ("feather", {}, None),
    "poisson": ("poisson", {}, None),
    "poisson mixed": ("poisson", {"mode": "mixed"}, None),
    "reconstruct": ("reconstruct", {}, None),
    "reconstruct lite": ("reconstruct", {"lite": True}, None),
    "reconstruct, rate 1e-3": ("reconstruct", {"learning_rate": 1e-3}, None),
    "reconstruct lite, rate 1e-3": ("reconstruct", {"lite": True, "learning_rate": 1e-3}, None),
    "reconstruct, 25 steps": ("reconstruct", {"iterations": 25}, None),
    "none, mask blurred": ("none", {}, (13, 10)),
    "paste, mask blurred": ("paste", {}, (13, 10)),
    "feather, mask blurred": ("feather", {}, (13, 10)),
}


def replaced(number):
    """A scene's picture and the pass that paints one of its objects anew."""
    scene = render(scene_seed(SEED, number), SIDE, SIDE)
    thing = min(scene.objects, key=lambda thing: abs(max(thing.bbox_xywh[2:]) - OBJECT))
    box, pad = xywh_to_xyxy(np.array(thing.bbox_xywh)), PADDING / 2 * SIDE
    region = outer_pixels(np.clip(box + np.array([-pad, -pad, pad, pad]), 0, SIDE))
    window = window_around(region, SIDE, SIDE, SHAPE, context=1, least=SHAPE[0])
    assert (window[3] - window[1], window[2] - window[0]) == SHAPE
    placed = tuple(box - [window[0], window[1]] * 2)
    step = Pass(
        window=window,
        shape=SHAPE,
        region=(region,),
        boxes=(placed,),
        phrases=(thing.category,),
        prompt=thing.phrase,
        negative_prompt="",
        seed=hash_draw("benchmark", str(number)),
    )
    return np.asarray(scene.image), step


def paints(items, **values):
    """Every item's paint by the mini model, and the seconds each took."""
    member = PAINTERS[PAINTER]
    chosen = PAINTERS.settings(PAINTER, {**member.MINI, **values})
    ref = resolve(model_of(PAINTER, member, chosen, "mini"), {})
    painter = PAINTERS.build(PAINTERS.member(PAINTER, {**member.MINI, **values}, ref))
    batch = [PassInput(step, canvas_of(picture, step), mask_of(step)) for picture, step in items]
    painter.paint(batch[:1])  # loads
    start = time.perf_counter()
    made = [painter.paint([item])[0] for item in batch]
    return made, (time.perf_counter() - start) / len(batch)


def figures(picture, result, step):
    """Background PSNR of the window, GDiff at the edge and of the window."""
    source, output = (crop_window(image, step.window) for image in (picture, result))
    mask = region_mask(step, step.window)
    return psnr(source, output, ~mask), gdiff(source, output, mask), gdiff(source, output, mask, where="full")


def test_the_same_paints_every_way_back():
    items = [replaced(number) for number in range(COUNT)]
    sharp, seconds = paints(items)
    by_blur = {None: sharp, (13, 10): paints(items, mask_blur=(13, 10))[0]}
    shares = [mask_of(step).mean() for _, step in items]
    print(f"\n{COUNT} scenes, painter {PAINTER} (mini), windows of {SHAPE[1]}×{SHAPE[0]} pixels, ", end="")
    print(f"{np.mean(shares):.0%} of them painted, {seconds:.2f} s a paint\n")
    print("| composite | PSNR background, dB | GDiff edge | GDiff full | s a picture |\n|---|---|---|---|---|")
    exact = []
    for name, (composite, values, blur) in ROWS.items():
        built = COMPOSITES.build(COMPOSITES.member(composite, values))
        start = time.perf_counter()
        pairs = zip(items, by_blur[blur], strict=True)
        results = [compose(picture, paint, step, built) for (picture, step), paint in pairs]
        spent = (time.perf_counter() - start) / COUNT
        found = [figures(picture, result, step) for (picture, step), result in zip(items, results, strict=True)]
        background, edge, full = np.mean(found, axis=0)
        exact += [name] if background == np.inf else []
        print(f"| {name} | {background:.2f} | {edge:.3f} | {full:.3f} | {spent:.3f} |")
    assert exact == ["paste (copy)", "poisson", "poisson mixed", "paste, mask blurred"]
