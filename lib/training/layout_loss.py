"""Which grounding token belongs where: half of the attention heads of a GLIGEN U-Net, held to the boxes.

A U-Net has no position code, so tokens take long to be related to places by what is painted alone. Here it is taught
directly: in the gated self-attention half of the heads shall attend from each cell to the token of the box that covers
it, or to the "no box" tokens where none does. Loss: −log of that share of the attention, mean over cells and layers.

    layout = LayoutLoss(unet, tokens=30)
    layout.start(boxes, masks); unet(...); loss = loss + 0.1 * layout.loss()
"""

from __future__ import annotations

from typing import Any

import torch


class LayoutLoss:
    """Records a U-Net's gated self-attention between `start` and `loss`."""

    def __init__(self, unet: Any, tokens: int) -> None:
        """tokens: number of grounding tokens of every picture, those for no box included."""
        from diffusers.models.attention import GatedSelfAttentionDense

        self.tokens = tokens
        self.boxes: torch.Tensor | None = None
        self.masks: torch.Tensor | None = None
        self.terms: list[torch.Tensor] = []
        for module in unet.modules():
            if isinstance(module, GatedSelfAttentionDense):
                module.attn.register_forward_pre_hook(self._look)

    def start(self, boxes: torch.Tensor, masks: torch.Tensor) -> None:
        """Begin to record. boxes: (B, K, 4) xyxy in 0 .. 1; masks: (B, K), 1 = a box."""
        self.boxes, self.masks, self.terms = boxes, masks, []

    def stop(self) -> None:
        """Record no more, as before sampling."""
        self.boxes = None

    def loss(self) -> torch.Tensor:
        """Mean over the layers; ends the recording."""
        self.boxes = None
        return torch.stack(self.terms).mean()

    def _look(self, attention: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if self.boxes is None or self.masks is None:
            return
        (states,) = inputs
        cells = states.shape[1] - self.tokens
        side = round(cells**0.5)
        heads = attention.heads // 2
        width = attention.to_q.weight.shape[0] // attention.heads
        query = attention.to_q(states[:, :cells]).unflatten(2, (-1, width))[:, :, :heads]
        key = attention.to_k(states).unflatten(2, (-1, width))[:, :, :heads]
        logits = torch.einsum("bqhd,bkhd->bhqk", query, key).float() * width**-0.5
        shares = (logits - logits.logsumexp(-1, keepdim=True))[..., cells:]  # of the tokens, log
        wanted = cell_owners(self.boxes, self.masks, side)  # (B, cells, 30) bool
        right = torch.where(wanted[:, None], shares, -torch.inf).logsumexp(-1)  # (B, heads, cells)
        owned = wanted.any(-1)[:, None].expand_as(right)
        self.terms.append(-right[owned].mean())


def cell_owners(boxes: torch.Tensor, masks: torch.Tensor, side: int) -> torch.Tensor:
    """(B, side², K) bool: which tokens each cell should look at.

    The smallest box that holds the cell's centre; without one, the tokens that stand for no box.
    boxes: (B, K, 4) xyxy in 0 .. 1; masks: (B, K), 1 = a box.
    """
    centres = (torch.arange(side, device=boxes.device) + 0.5) / side
    y, x = (v.flatten()[None, :, None] for v in torch.meshgrid(centres, centres, indexing="ij"))
    x0, y0, x1, y1 = (v[:, None, :] for v in boxes.unbind(-1))
    real = masks[:, None, :] > 0
    holds = (x >= x0) & (x < x1) & (y >= y0) & (y < y1) & real
    area = ((x1 - x0) * (y1 - y0)).expand_as(holds)
    smallest = torch.where(holds, area, torch.inf).argmin(-1, keepdim=True)
    owner = torch.zeros_like(holds).scatter_(2, smallest, True) & holds
    return torch.where(holds.any(-1, keepdim=True), owner, ~real)
