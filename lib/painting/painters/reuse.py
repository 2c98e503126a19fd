"""Deep features of a U-Net, kept from one step for the next ones (DeepCache: Ma et al. 2024, arXiv 2312.00858).

    share_features(unet)                     # once
    step = reusing(unet, every=3)            # for each picture: called in the U-Net's place, step after step

From one step to the next the deep layers change little. Of every three calls the first computes the whole U-Net, the
others its first convolution, the last layer of its last block and its last convolution: that is the paper's branch 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Kept:
    """What the deep layers gave in the last whole call."""

    whole: bool = True  # in this call they are computed
    outputs: dict[int, Any] = field(default_factory=dict)  # by layer


# Of the call that is going on in this thread: several pictures may be painted side by side.
_NOW: ContextVar[_Kept | None] = ContextVar("kept features", default=None)


def share_features(unet: Any) -> None:
    """Make the deep layers of a UNet2DConditionModel give their kept outputs within `reusing`; elsewhere they compute
    as before."""
    for number, layer in enumerate(_deep(unet)):
        layer.forward = _kept_or_computed(number, layer.forward)


def _deep(unet: Any) -> Iterator[Any]:
    """All layers but the first convolution, the last layer of the last block, and what follows it."""
    *others, last = unet.up_blocks
    yield from (*unet.down_blocks, unet.mid_block, *others, *last.resnets[:-1])
    yield from getattr(last, "attentions", [])[:-1]


def _kept_or_computed(number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    def shared(*args: Any, **kwargs: Any) -> Any:
        kept = _NOW.get()
        if kept is None:
            return forward(*args, **kwargs)
        if kept.whole:
            kept.outputs[number] = forward(*args, **kwargs)
        return kept.outputs[number]

    return shared


def reusing(unet: Any, every: int) -> Callable[..., Any]:
    """A function to call in the place of a U-Net that went through `share_features`, for the steps of one batch.

    Of `every` calls one computes the whole U-Net, the first one always, and one whose batch is of another size: the
    kept features are of the former one.
    """
    kept, size, since = _Kept(), 0, 0

    def call(sample: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal size, since
        kept.whole = since % every == 0 or len(sample) != size
        since, size = (1 if kept.whole else since + 1), len(sample)
        before = _NOW.set(kept)
        try:
            return unet(sample, *args, **kwargs)
        finally:
            _NOW.reset(before)

    return call
