"""L_vlb of a diffusion model that learns its variance (Nichol & Dhariwal 2021, arXiv 2102.09672)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def variational_bound(
    noise: Any,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    predicted: torch.Tensor,
    spread: torch.Tensor,
    times: torch.Tensor,
) -> torch.Tensor:
    """KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) in bits per element, mean, of the network's prediction.

    log σ² = s · log β_t + (1 − s) · log β̃_t, s = (spread + 1) / 2 (Nichol & Dhariwal, equation 15). All (N, C, H, W),
    times (N,). Step 0 has no posterior and counts as 0. The paper's weight, λ = .001 for a sum over 1,000 steps, is the
    1 of this mean over steps.
    """
    kept = noise.alphas_cumprod.to(clean.device)
    later = times.clamp(min=1)
    now, before = (kept[index][:, None, None, None] for index in (later, later - 1))
    beta = 1 - now / before
    if noise.config.prediction_type == "v_prediction":
        guess = now.sqrt() * noisy - (1 - now).sqrt() * predicted
    else:
        guess = (noisy - (1 - now).sqrt() * predicted) / now.sqrt()
    wrong = before.sqrt() * beta / (1 - now) * (clean - guess)  # of the mean
    low, high = (beta * (1 - before) / (1 - now)).log(), beta.log()
    share = (spread + 1) / 2
    spread = share * high + (1 - share) * low
    kl = (spread - low - 1 + (low - spread).exp() + wrong.square() * (-spread).exp()) / 2
    return (kl.mean((1, 2, 3)) * (times > 0)).mean() / float(np.log(2))
