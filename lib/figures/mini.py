"""How good the mini models are on scenes that no training has used, beside the layout fidelity of the painters."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.captioning.captioners.blip2 import Blip2, Blip2Settings
from lib.core.checkpoints import resolve
from lib.training.vae import decode, encode, load_vae, psnr, to_tensor
from lib.training.windows import TrainingPicture, whole


def reconstruction(folder: Path, pictures: Sequence[TrainingPicture], size: int) -> dict[str, float]:
    """PSNR in decibels of pictures at size × size pixels after the autoencoder: mean, and the worst picture's."""
    import torch

    vae = load_vae(folder).eval()
    found = []
    for picture in pictures:
        pixels = whole(picture, size).pixels
        with torch.inference_mode():
            made = decode(vae, encode(vae, [pixels]))[0]
        found.append(float(psnr(to_tensor([made]) - to_tensor([pixels]))))
    return {"psnr": round(float(np.mean(found)), 2), "worst_psnr": round(float(np.min(found)), 2)}


def captions(folder: Path, pictures: Sequence[TrainingPicture]) -> dict[str, Any]:
    """Shares of pictures whose caption names every category present, and none that is absent."""
    captioner = Blip2(Blip2Settings(max_new_tokens=Blip2.MINI["max_new_tokens"]), resolve(str(folder), {}))
    names = sorted({name for picture in pictures for name in picture.things.categories})
    texts = captioner.caption([picture.pixels for picture in pictures], [()] * len(pictures))
    every, none, exact = 0, 0, 0
    for picture, text in zip(pictures, texts, strict=True):
        mentioned, present = named(text, names), set(picture.things.categories)
        every += present <= mentioned
        none += mentioned <= present
        exact += text == picture.caption
    count = len(pictures)
    return {"names_all_present": every / count, "names_none_absent": none / count, "word_for_word": exact / count}


def named(text: str, names: Collection[str]) -> set[str]:
    """Which category names a text mentions, in singular or plural. "two pallet trucks" does not mention "pallet"."""
    found = set()
    for name in sorted(names, key=len, reverse=True):
        text, count = re.subn(rf"\b{re.escape(name.lower())}(s|es)?\b", " ", text.lower())
        if count:
            found.add(name)
    return found
