"""Schedulers: how noise becomes a picture, step by step. To add one: a line below and in MOST_STEPS; tests try all.

Only those that draw no noise, and that give a picture the same bits alone, in a batch and in any order.
Betas and prediction type come from the checkpoint; what stands here is what must not come from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from lib.core.errors import AugmentError
from lib.core.registry import MemberSettings

if TYPE_CHECKING:
    import torch

# name → (class in diffusers, its values). A checkpoint written for one class lacks the fields of another, whose default
# may be wrong for it: DDIM would clip latents to [-1, 1].
SCHEDULERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),  # PLMS of arXiv 2202.09778: the GLIGEN checkpoints' own
    "ddim": ("DDIMScheduler", {"clip_sample": False, "thresholding": False}),  # arXiv 2010.02502, eta 0
    "euler": ("EulerDiscreteScheduler", {}),  # arXiv 2206.00364, algorithm 2, no churn
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),  # 2211.01095
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2, "thresholding": False}),  # arXiv 2302.04867
}


# Denoising steps at most. Of as many as a checkpoint was trained on, most ask for one more than there are; those that
# look back over several steps divide by differences of noise levels that come to nothing before that.
USUAL_TRAINING = 1000
MOST_STEPS = {"pndm": 999, "ddim": 999, "euler": 1000, "dpm++2m": 900, "unipc": 900}


class ChecksSteps(MemberSettings):
    """Settings with `steps` and `scheduler`: more steps than the scheduler can take are refused."""

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        steps, name = (getattr(self, field) for field in ("steps", "scheduler"))
        if steps > MOST_STEPS[name]:
            raise ValueError(f"expected {MOST_STEPS[name]} steps at most with the scheduler {name}, got {steps}")
        return self


def scheduler_name(name: str) -> str:
    """The name as given; raises ValueError that lists the known ones (for pydantic validators)."""
    if name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}: known are {', '.join(SCHEDULERS)}")
    return name


def make_scheduler(name: str, config: Mapping[str, Any], steps: int, device: torch.device) -> Any:
    """A fresh scheduler (multi-step ones keep a state) with its time steps set.

    config: the checkpoint's scheduler_config.json. Raises AugmentError where it does not fit the scheduler.
    """
    import diffusers

    kind, values = SCHEDULERS[name]
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        scheduler = getattr(diffusers, kind).from_config(known, **values)
        scheduler.set_timesteps(steps, device=device)
        if max(scheduler.timesteps) >= scheduler.config.num_train_timesteps:
            raise ValueError(f"it was trained on {scheduler.config.num_train_timesteps} steps, take fewer")
    except (ValueError, NotImplementedError) as error:
        raise AugmentError(f"scheduler {name!r} with {steps} steps does not go with this checkpoint: {error}") from None
    return scheduler


def check_scheduler(name: str, config: Mapping[str, Any], steps: int) -> None:
    """Raises as `make_scheduler` does. With the usual count of training steps the settings are known to be right."""
    if config.get("num_train_timesteps", USUAL_TRAINING) != USUAL_TRAINING:
        import torch

        make_scheduler(name, config, steps, torch.device("cpu"))


def time_steps(scheduler: Any, start: int = 0) -> torch.Tensor:
    """The time steps without the first `start`. PNDM takes its second one twice, wherever it starts."""
    import torch

    if not hasattr(scheduler, "plms_timesteps"):
        times: torch.Tensor = scheduler.timesteps
        return times[start:]
    left = torch.unique_consecutive(scheduler.timesteps)[start:]
    return torch.cat([left[:2], left[1:]])
