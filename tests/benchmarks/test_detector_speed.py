"""CPU seconds that a training step of each detector takes, one thread: the table in docs/proof.md."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from lib.proof.detectors import TRAINABLE, Target

pytestmark = pytest.mark.benchmark

SIZE, BATCH, STEPS = 320, 8, 2
LITE0 = {"backbone": "efficientnet-lite0", "backbone_weights": "imagenet"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("compact", {}),
    ("compact", {"stride": 8}),
    ("fcos", {}),
    ("fcos", {"backbone": "mobilenet-v3-small"}),
    ("fcos", {"backbone": "resnet18"}),
    ("fcos", LITE0),
    ("retinanet", {}),
    ("faster-rcnn", {}),
    ("rt-detr", {}),
    ("d-fine", {}),
]


@pytest.mark.parametrize(("name", "settings"), ROWS)
def test_seconds_a_step(name: str, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = TRAINABLE.build(TRAINABLE.choose(name, {"size": SIZE, **settings})).build(6)
    net = net.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-3)
    corners = SIZE * 0.9 * torch.rand(BATCH, 6, 2)
    boxes = torch.cat([corners, corners + SIZE * (0.03 + 0.07 * torch.rand(BATCH, 6, 2))], 2)
    targets = [Target(some, torch.arange(6), torch.zeros(0, 4)) for some in boxes]
    pictures = torch.rand(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    began = 0.0
    for step in range(1 + STEPS):
        if step == 1:
            began = time.process_time()
        net.losses(pictures, targets)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    seconds = (time.process_time() - began) / STEPS
    net.eval()
    began = time.process_time()
    net.detect(pictures)
    looking = (time.process_time() - began) / BATCH
    weights = sum(p.numel() for p in net.parameters()) / 1e6
    with capsys.disabled():
        print(f"\n| {name} | {settings} | {weights:.2f} M | {seconds:.2f} | {looking:.3f} |", flush=True)
