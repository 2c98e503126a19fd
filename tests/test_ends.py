"""Every number that a setting takes at its limits works; what cannot work is refused as a setting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from test_composites import CASES, noise, painted
from test_composites import TinyDecoder as Decoder
from test_edits import APART, PLACES, scene_of
from test_registry import FAMILIES, REF, takes_model

from lib.core.errors import AugmentError
from lib.core.registry import Family
from lib.evaluation.metrics import METRICS
from lib.painting.composites import COMPOSITES, compose
from lib.painting.painters import PAINTERS
from lib.painting.painters.blending import BlendedLatent
from lib.painting.painters.schedulers import MOST_STEPS, SCHEDULERS, make_scheduler, time_steps
from lib.planning.edits import EDITS

# As published checkpoints have them; an offset of 1 is Stable Diffusion's.
CHECKPOINTS = {
    "stable diffusion": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
}
TRAINED = {"num_train_timesteps": 1000}


def limits(settings: type[Any]) -> Iterator[tuple[str, Any, Any]]:
    """(field, the last value that is taken, one beyond) of every limit."""
    for name, field in settings.model_fields.items():
        whole = "int" in str(field.annotation)
        for limit in field.metadata:
            match limit:
                case Ge(value):
                    yield name, value, value - 1
                case Le(value):
                    yield name, value, value + 1
                case Gt(value):
                    yield name, value + 1 if whole else math.nextafter(float(value), math.inf), value
                case Lt(value):
                    yield name, value - 1 if whole else math.nextafter(float(value), -math.inf), value


def members(*families: Family) -> list[Any]:
    """(family, member, field, value, one beyond) each."""
    return [
        pytest.param(family, name, *limit, id=f"{family.kind} {name} {limit[0]} {limit[1]}")
        for family in families
        for name in family
        for limit in limits(family[name].Settings)
    ]


def built(family: Family, name: str, values: dict[str, Any]) -> Any:
    return family.build(family.member(name, values, REF if takes_model(family[name]) else None))


@pytest.mark.parametrize(("family", "name", "field", "value", "beyond"), members(*FAMILIES))
def test_a_setting_at_its_limit_builds_its_member_and_beyond_is_refused(family, name, field, value, beyond):
    with pytest.raises(AugmentError, match=field):
        family.settings(name, {field: beyond})
    # More steps than most schedulers can take need one that can.
    many = field == "steps" and value > min(MOST_STEPS.values())
    more = {"scheduler": "euler"} if many and "scheduler" in family[name].Settings.model_fields else {}
    assert getattr(built(family, name, {field: value} | more).settings, field) == value


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", [name for name in PAINTERS if "scheduler" in PAINTERS[name].Settings.model_fields])
def test_more_steps_than_a_scheduler_can_take_are_refused(name, scheduler):
    most = MOST_STEPS[scheduler]
    assert PAINTERS.settings(name, {"scheduler": scheduler, "steps": most}).steps == most
    with pytest.raises(AugmentError, match=f"steps at most with the scheduler|less than or equal to {most}"):
        PAINTERS.settings(name, {"scheduler": scheduler, "steps": most + 1})


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("end", ["one", "most"])
def test_every_scheduler_steps_to_a_finite_end_at_its_limits(scheduler, checkpoint, end):
    steps = 1 if end == "one" else MOST_STEPS[scheduler]
    made = make_scheduler(scheduler, {**TRAINED, **CHECKPOINTS[checkpoint]}, steps, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    latents = torch.ones(1, 1, 2, 2) * made.init_noise_sigma
    for timestep in time_steps(made):
        made.scale_model_input(latents, timestep)
        prediction = torch.randn(latents.shape, generator=generator) / 2
        latents = made.step(prediction, timestep, latents).prev_sample
    assert torch.isfinite(latents).all()


def test_a_checkpoint_of_fewer_steps_is_named_with_what_it_was_trained_on():
    with pytest.raises(AugmentError, match=r"scheduler 'ddim' with 100 steps does not go with this checkpoint"):
        make_scheduler("ddim", {"num_train_timesteps": 100, "steps_offset": 1}, 100, torch.device("cpu"))


@pytest.mark.parametrize("steps", [1, 2, 50, 999])
def test_of_the_steps_one_is_always_left(steps):
    painter = BlendedLatent(BlendedLatent.Settings(steps=steps, start=math.nextafter(1, 0)), REF)
    assert painter._left_out == steps - 1


@pytest.mark.parametrize(("family", "name", "field", "value", "beyond"), members(COMPOSITES))
@pytest.mark.parametrize("case", ["rectangle", "one pixel in the corner", "full frame"])
def test_a_composite_at_its_limits_gives_a_picture(family, name, field, value, beyond, case):
    step, picture = CASES[case], noise(0)
    fast = {"iterations": 1} if name == "reconstruct" and field != "iterations" else {}
    result = compose(picture, painted(Decoder(), step.shape), step, built(family, name, {field: value} | fast))
    assert result.shape == picture.shape and result.dtype == np.uint8


@pytest.mark.parametrize(("family", "name", "field", "value", "beyond"), members(EDITS))
def test_an_edit_at_its_limits_drafts_a_scene(family, name, field, value, beyond):
    draft = built(family, name, {field: value}).draft(scene_of(*APART, places=PLACES))
    assert draft.targets or draft.reason


SETS = [one for one in members(METRICS) if hasattr(METRICS[one.values[1]], "of_sets")]


@pytest.mark.parametrize(("family", "name", "field", "value", "beyond"), SETS)
def test_a_metric_of_sets_at_its_limits_gives_numbers(family, name, field, value, beyond):
    random = np.random.default_rng(0)
    scores = built(family, name, {field: value}).of_sets(random.normal(size=(9, 4)), random.normal(size=(9, 4)), 0)
    assert scores and all(np.isfinite(score) for score in scores.values() if isinstance(score, float))
