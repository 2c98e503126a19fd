"""The layout-to-image model STAY (painters/stay_unet.py): windows around labelled objects, painted inside their boxes.

loss = L_simple + L_vlb (Nichol & Dhariwal 2021, arXiv 2102.09672, their "hybrid")

L_simple is the squared error of v (or ε), in which painted cells weigh `object_weight` times as much as others, and
kept ones little. L_vlb teaches the variance alone: it receives the mean without its gradient.

Most windows stand around one object at the resolution of the picture, for defects are lost in a whole picture. The
boxes of one object, or several, are painted, with a random margin; the others are kept, and are not conditions. In the
share `generation` nothing is kept and every object is a condition. Of more objects than the model takes, the largest
are conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from lib.core.checkpoints import resolve
from lib.core.compute import device
from lib.core.errors import AugmentError
from lib.core.geometry import area_xyxy
from lib.painting.painters.schedulers import make_scheduler
from lib.painting.painters.stay_unet import LayoutModel, LayoutUNet, box_maps, load_layout_unet, paint_layout
from lib.training import loop
from lib.training.bound import variational_bound
from lib.training.loop import LoopSettings
from lib.training.train import read_facts
from lib.training.vae import decode, load_vae, save_half, to_pictures, to_tensor
from lib.training.windows import Things, TrainingPicture, Window, mirrored, window_of

KEPT = 0.1  # weight of the error in cells that are kept: the prediction there is replaced by the known ones
ELSEWHERE = 0.1  # share of the windows that stand anywhere
LEAST = 1.3  # a window is at least so many times as long as the object it stands around
MARGIN = 6  # pixels at most around a painted box
SHOWN = 3  # examples of each category on a sheet
LARGER = 3  # times, on a sheet
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


class StaySettings(LoopSettings):
    """Settings of the trainer `stay`; those of the network count where it does not begin from an earlier one."""

    steps: int = Field(8000, ge=0, description="optimiser steps")
    rate: float = Field(4e-4, gt=0, description="learning rate")
    channels: Literal["auto", "grey", "colour"] = Field(
        "auto", description="auto: grey where nineteen in twenty pictures are"
    )
    vae: Path | None = Field(None, description="folder of an autoencoder, in whose latents it paints; none: in pixels")
    categories: list[str] | None = Field(
        None, min_length=1, description="what it learns, in this order; none: all of the data set"
    )
    patch: int = Field(4, ge=1, description="pixels (or latent cells) along a side that are folded into one cell")
    widths: list[int] = Field([128, 128, 160], min_length=2, description="channels at each resolution")
    layers: int = Field(1, ge=1, description="residual blocks at each resolution; the decoder has one more")
    max_objects: int = Field(8, ge=1, description="objects of one window")
    label_dim: int = Field(64, ge=1, description="length of a label's embedding; the paper has 180")
    class_maps: bool = Field(True, description="each category's boxes as an input channel")
    learned_variance: bool = Field(True, description="twice as many channels out, of which samplers of ours use half")
    schedule: Literal["linear", "cosine"] = Field("cosine", description="of the noise")
    prediction: Literal["v_prediction", "epsilon"] = Field("v_prediction", description="what the network predicts")
    dropped: float | None = Field(
        None, ge=0, le=1, description="share of examples without labels, for guidance; none: .1, begun from a model .2"
    )
    generation: float = Field(0.25, ge=0, le=1, description="share of the examples in which nothing is kept")
    object_weight: float = Field(2, ge=1, description="weight of the error in objects beside that around them")
    zoom: float = Field(1.5, ge=1, description="a window shows up to so many times `size` pixels of a picture")
    symmetries: Literal["none", "mirror", "all"] = Field(
        "mirror", description="left and right exchanged, or all eight of the square: boards seen from above"
    )


class StayObjective(nn.Module):
    """Denoise windows, given their layout and what is kept.

    model: the network, the noise's schedule as diffusers' config, and an autoencoder or None; dropped: share of the
    examples without labels.
    """

    FORMER = LayoutUNet.FORMER

    def __init__(
        self, model: LayoutModel, settings: StaySettings, pictures: Sequence[TrainingPicture], size: int, dropped: float
    ) -> None:
        super().__init__()
        from diffusers import DDPMScheduler

        self.model = model  # a dataclass: of its networks the U-Net alone is this module's
        self.unet, self.noise = model.unet.train(), DDPMScheduler.from_config(model.scheduler)
        self.settings, self.pictures, self.size, self.dropped = settings, pictures, size, dropped
        self.labels = {name: 1 + i for i, name in enumerate(self.unet.config.categories)}
        objects: dict[str, list[tuple[int, int]]] = {}  # category → picture and row of each object
        for number, picture in enumerate(pictures):
            for row, name in enumerate(picture.things.categories):
                objects.setdefault(name, []).append((number, row))
        self.objects = dict(sorted(objects.items()))

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """pixels (N, C, S, S) in −1 .. 1, keep and weight (N, 1, S, S), boxes (N, K, 4) in 0 .. 1, labels (N, K)."""
        names = list(self.objects)
        windows = []
        for _ in range(size):
            found = self.objects[names[rng.integers(len(names))]]  # so that a rare category is not lost
            windows.append(self._window(*found[rng.integers(len(found))], rng))
        return self._stacked([self._example(window, rng, self.settings.generation, self.dropped) for window in windows])

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        clean, keep, weight = self._known(batch)
        noise = torch.randn_like(clean)
        times = torch.randint(0, self.noise.config.num_train_timesteps, (len(clean),), device=clean.device)
        noisy = self.noise.add_noise(clean, noise, times)
        labels = batch["labels"]
        style = torch.randn(*labels.shape, self.unet.config.style_dim, device=labels.device)
        out = self.unet(noisy, times, batch["boxes"], labels, style, clean, keep).float()
        predicted, spread = out[:, : clean.shape[1]], out[:, clean.shape[1] :]
        kind = self.noise.config.prediction_type
        wanted = self.noise.get_velocity(clean, noise, times) if kind == "v_prediction" else noise
        weight = (weight * (1 - (1 - KEPT) * keep)).expand_as(clean)
        simple = (((predicted - wanted).square() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))).mean()
        if not self.unet.config.learned_variance:
            return {"loss": simple}
        bound = variational_bound(self.noise, clean, noisy, predicted.detach(), spread, times)
        return {"loss": simple + bound, "simple": simple.detach(), "bound": bound.detach()}

    def save(self, folder: Path) -> None:
        """A checkpoint that lib.painting.painters.stay_unet.load_layout_unet reads."""
        save_half(self.unet, folder / "unet")
        self.noise.save_pretrained(folder / "scheduler")
        if self.model.vae is not None:
            save_half(self.model.vae, folder / "vae")

    def sheet(self) -> np.ndarray:
        """A row a category, SHOWN times: a window, its object painted anew, and a window made of its layout alone."""
        rng = np.random.default_rng(1)
        windows = [self._window(*found[k], rng, 0.0) for found in self.objects.values() for k in _some(len(found), rng)]
        windows = [_first(window, 1) for window in windows]
        known = self._stacked([self._example(window, rng, 0.0, 0.0) for window in windows])
        painted, made = self._painted(known), self._painted(known | {"keep": known["keep"] * 0})
        shown = [
            np.concatenate([_framed(pixels, window.things.boxes) for pixels in (window.pixels, *both)], 1)
            for window, *both in zip(windows, painted, made, strict=True)
        ]
        return np.concatenate([np.concatenate(shown[i : i + SHOWN], 1) for i in range(0, len(shown), SHOWN)])

    def _painted(self, batch: dict[str, torch.Tensor], guidance: float = 1.5) -> list[np.ndarray]:
        where, vae = next(self.unet.parameters()).device, self.model.vae
        batch = {name: value.to(where) for name, value in batch.items()}
        known, keep, _ = self._known(batch)
        drawn = torch.Generator().manual_seed(0)
        noise = torch.randn(known.shape, generator=drawn).to(where)
        style = torch.randn(*batch["labels"].shape, self.unet.config.style_dim, generator=drawn).to(where)
        scheduler = make_scheduler("ddim", self.noise.config, loop.SAMPLED, where)
        z = paint_layout(self.unet, scheduler, noise, batch["boxes"], batch["labels"], style, guidance, known, keep)
        return to_pictures(z.expand(-1, 3, -1, -1)) if vae is None else decode(vae, z)

    def _known(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clean pictures or latents, keep and weight, of one size; a latent cell is kept where all its pixels are."""
        clean, keep, weight, vae = batch["pixels"], batch["keep"], batch["weight"], self.model.vae
        if vae is None:
            return clean, keep, weight
        with torch.no_grad():
            clean = vae.encode(clean).latent_dist.mode().float() * vae.config.scaling_factor
        factor = keep.shape[-1] // clean.shape[-1]
        return clean, -F.max_pool2d(-keep, factor), F.avg_pool2d(weight, factor)

    def _window(self, number: int, row: int, rng: np.random.Generator, elsewhere: float = ELSEWHERE) -> Window:
        """A window around an object, which is its first one; in the share `elsewhere` one that stands anywhere."""
        picture = self.pictures[number]
        height, width = picture.pixels.shape[:2]
        most = min(height, width)
        x0, y0, x1, y1 = picture.things.boxes[row]
        side = self.size * rng.uniform(1, self.settings.zoom)
        side = int(min(most, max(side, LEAST * max(x1 - x0, y1 - y0))))
        if rng.random() < elsewhere:
            x, y = rng.integers(width - side + 1), rng.integers(height - side + 1)
        else:
            room = (1 - 1 / LEAST) / 2 * side  # so that the object stays inside
            x, y = (
                np.clip((low + high - side) / 2 + rng.uniform(-room, room), 0, frame - side)
                for low, high, frame in ((x0, x1, width), (y0, y1, height))
            )
        others = [other for other in range(len(picture.things)) if other != row]
        ordered = TrainingPicture(picture.pixels, picture.caption, picture.things.take([row, *others]))
        window = window_of(ordered, int(x), int(y), side, side, self.size)
        flip = self.settings.symmetries != "none" and rng.random() < 0.5
        quarters = int(rng.integers(4)) if self.settings.symmetries == "all" else 0
        return _first(turned(mirrored(window) if flip else window, quarters), self.unet.config.max_objects)

    def _example(self, window: Window, rng: np.random.Generator, generation: float, dropped: float) -> dict[str, Any]:
        """Conditions of one window, its tensors as `batch` stacks them."""
        things, size = window.things, self.size
        keep = np.zeros((1, size, size), np.float32)
        if self.unet.config.keeps and rng.random() >= generation:
            things, keep = _kept(things, size, rng)
        boxes = torch.from_numpy(things.boxes).float()
        within = box_maps(boxes[None], size, size)[0].sum(0, keepdim=True).clamp(max=1)
        labels = torch.tensor([self.labels[name] for name in things.categories], dtype=torch.long)
        return {
            "pixels": window.pixels,
            "keep": torch.from_numpy(keep),
            "weight": 1 + (self.settings.object_weight - 1) * within,
            "boxes": boxes,
            "labels": labels * int(rng.random() >= dropped),
        }

    def _stacked(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Examples as a batch; objects are filled up to the most that any has."""
        grey = self.model.vae is None and self.unet.config.channels == 1
        pixels = [example["pixels"] for example in examples]
        batch = {"pixels": to_tensor([cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None] if grey else p for p in pixels])}
        batch |= {name: torch.stack([example[name] for example in examples]) for name in ("keep", "weight")}
        for name in ("boxes", "labels"):
            batch[name] = nn.utils.rnn.pad_sequence([example[name] for example in examples], batch_first=True)
        return batch


def turned(window: Window, quarters: int) -> Window:
    """Turned by quarters to the left."""
    boxes, things = window.things.boxes, window.things
    for _ in range(quarters):
        x0, y0, x1, y1 = boxes.T
        boxes = np.stack([y0, 1 - x1, y1, 1 - x0], axis=1)
    pixels = np.ascontiguousarray(np.rot90(window.pixels, quarters))
    return Window(pixels, window.caption, Things(boxes, things.categories, things.phrases))


def _first(window: Window, most: int) -> Window:
    """With `most` objects at most: the first one, and the largest of the others."""
    things = window.things
    others = sorted(range(1, len(things)), key=lambda row: -float(area_xyxy(things.boxes[row : row + 1])[0]))
    return Window(window.pixels, window.caption, things.take([*range(min(1, len(things))), *others][:most]))


def _kept(things: Things, size: int, rng: np.random.Generator) -> tuple[Things, np.ndarray]:
    """What is painted, the first object or several, and the pixels (1, size, size) that stay: 1 where no painted box,
    nor its margin, is. Without any object, an empty box is painted.
    """
    keep = np.ones((1, size, size), np.float32)
    boxes = things.boxes
    if len(things):
        count = 1 if rng.random() < 0.8 else int(rng.integers(1, len(things) + 1))
        things = things.take(range(count))
        boxes = things.boxes
    else:
        low, side = rng.uniform(0, 0.5, 2), rng.uniform(0.3, 0.6, 2)
        boxes = np.concatenate([low, np.minimum(low + side, 1)])[None]
    for box in boxes * size:
        margin = int(rng.integers(MARGIN + 1))
        x0, y0 = np.maximum(np.floor(box[:2]).astype(int) - margin, 0)
        x1, y1 = np.ceil(box[2:]).astype(int) + margin
        keep[:, y0:y1, x0:x1] = 0
    return things, keep


def _some(count: int, rng: np.random.Generator) -> list[int]:
    """SHOWN numbers under `count`."""
    return [int(k) for k in rng.integers(count, size=SHOWN)]


def _framed(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Enlarged, grey where it is, with its boxes drawn."""
    large: np.ndarray = cv2.resize(pixels, None, fx=LARGER, fy=LARGER, interpolation=cv2.INTER_NEAREST)
    for box in (boxes * len(large)).round().astype(int).tolist():
        cv2.rectangle(large, box[:2], [v - 1 for v in box[2:]], (255, 0, 255), 1)
    return large


class StayTrainer:
    """The trainer of LayoutUNet, in pixels or in the latents of an autoencoder."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ()
    DETAIL: ClassVar[float] = 0
    ABOUT: ClassVar[str] = "STAY, layout to image: new objects inside their boxes, by box and category"
    Settings: ClassVar[type[StaySettings]] = StaySettings
    FIXED: ClassVar[tuple[str, ...]] = ("prediction", "schedule", "learned_variance")

    @staticmethod
    def made_from(settings: StaySettings, start: Path | None = None) -> dict[str, str]:
        """The autoencoder, in whose latents it paints, and its revision; with `start` that of `start`, as it noted it.

        Without one there is nothing, so that models and checkpoints in pixels keep their identity.
        """
        if start is not None:
            needs = read_facts(start).get("needs")
            return {"vae": needs["vae"]} if isinstance(needs, dict) and "vae" in needs else {}
        if settings.vae is None:
            return {}
        if not settings.vae.is_dir():
            raise AugmentError(f"settings.stay.vae {settings.vae} not found: give a folder with an autoencoder")
        return {"vae": resolve(str(settings.vae), {}).revision}

    @staticmethod
    def objective(
        settings: StaySettings,
        pictures: Sequence[TrainingPicture],
        size: int,
        models: Path,
        start: Path | None,
        work: Path,
    ) -> StayObjective:
        """A fresh network, or that of `start` with its categories, channels and schedule.

        Raises AugmentError for a category without examples, and one that `start` does not know.
        """
        known = {name for picture in pictures for name in picture.things.categories}
        names = sorted(known) if settings.categories is None else settings.categories
        missing = [name for name in names if name not in known]
        if missing:
            raise AugmentError(
                f"categories {missing} have no examples in {len(pictures)} pictures, which show {sorted(known)}: leave "
                "them out of `settings.stay.categories`"
            )
        model = _begun(start, settings, size, names) if start else _fresh(settings, pictures, size, names)
        if model.vae is not None:
            model.vae.to(device())
        dropped = (0.2 if start else 0.1) if settings.dropped is None else settings.dropped
        return StayObjective(model, settings, [_only(picture, names) for picture in pictures], size, dropped)


def _fresh(settings: StaySettings, pictures: Sequence[TrainingPicture], size: int, names: list[str]) -> LayoutModel:
    from diffusers import DDPMScheduler

    vae = load_vae(settings.vae).eval().requires_grad_(False) if settings.vae else None
    if vae is not None:
        channels, factor = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
    else:
        channels, factor = (1 if _grey(settings, pictures) else 3), 1
    try:
        unet = LayoutUNet(
            categories=names,
            sample_size=size // factor,
            channels=channels,
            patch=settings.patch,
            block_out_channels=settings.widths,
            layers_per_block=settings.layers,
            max_objects=settings.max_objects,
            label_dim=settings.label_dim,
            learned_variance=settings.learned_variance,
            class_maps=settings.class_maps,
        )
    except ValueError as error:
        raise AugmentError(f"settings of stay with windows of {size} pixels: {error}") from None
    noise = DDPMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=SCHEDULES[settings.schedule],
        prediction_type=settings.prediction,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return LayoutModel(unet, noise.config, vae)


def _begun(start: Path, settings: StaySettings, size: int, names: list[str]) -> LayoutModel:
    model = load_layout_unet(resolve(str(start), {}), size)
    known = model.unet.config.categories
    unknown = [name for name in names if name not in known]
    if unknown:
        raise AugmentError(
            f"model {start} does not know the categories {unknown}: it knows {', '.join(known)}; name those to go on "
            "with in `settings.stay.categories`, or train from nothing"
        )
    return model


def _grey(settings: StaySettings, pictures: Sequence[TrainingPicture]) -> bool:
    """A few pictures of a grey data set may hold colour, such as a mark that someone drew."""
    if settings.channels != "auto":
        return settings.channels == "grey"
    grey = sum(bool((p.pixels == p.pixels[..., :1]).all()) for p in pictures)
    return grey >= 0.95 * len(pictures)


def _only(picture: TrainingPicture, names: list[str]) -> TrainingPicture:
    """The picture with objects of `names` alone."""
    rows = [row for row, name in enumerate(picture.things.categories) if name in names]
    return TrainingPicture(picture.pixels, picture.caption, picture.things.take(rows))
