"""Fewer computations a picture: guidance in a part of the steps, deep features kept from step to step."""

import numpy as np
import pytest
import torch
from tiny import tiny_gligen, tiny_sd, tiny_sdxl

from lib.core.checkpoints import resolve
from lib.core.compute import side_by_side
from lib.core.errors import AugmentError
from lib.painting.painters import PAINTERS, PassInput
from lib.painting.painters.reuse import reusing, share_features
from lib.records.requests import Pass

SIDE = 64
PAINTS = {"sd-inpaint": 9, "sdxl-inpaint": 9, "vanilla": 4, "gligen-inpaint": 9}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("faster")
    return {
        "sd-inpaint": tiny_sd(root / "sd-inpaint", channels=9),
        "sdxl-inpaint": tiny_sdxl(root / "sdxl-inpaint"),
        "vanilla": tiny_sd(root / "sd"),
        "gligen-inpaint": tiny_gligen(root / "gligen-inpaint", inpaint=True),
    }


def painter(folders, name, **settings):
    values = {"steps": 6, "size": SIDE, "guidance": 3, "scheduler": "ddim", **settings}
    return PAINTERS.build(PAINTERS.member(name, values, resolve(str(folders[name]), {})))


def item(seed=1, phrases=()):
    step = Pass(
        window=(0, 0, SIDE, SIDE),
        shape=(SIDE, SIDE),
        region=((0, 0, 40, 40),),
        boxes=tuple((0, 0, 40, 40) for _ in phrases),
        phrases=phrases,
        prompt="the sea",
        negative_prompt="fog",
        seed=seed,
    )
    canvas = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:40, :40] = True
    return PassInput(step, canvas, mask)


def sizes_seen(model, block):
    """Batch sizes that a block of the U-Net was computed with."""
    seen = []
    handle = block(model.unet).resnets[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen, handle


@pytest.mark.parametrize("name", PAINTS)
def test_guidance_in_a_part_of_the_steps_computes_one_half_in_the_others(folders, name):
    made = painter(folders, name, guided=[1 / 3, 2 / 3])
    seen, handle = sizes_seen(made._loaded(), lambda unet: unet.mid_block)
    made.paint([item()])
    handle.remove()
    assert seen == [1, 1, 2, 2, 1] + [1] * (name != "sdxl-inpaint")  # which leaves its first step out


@pytest.mark.parametrize("name", PAINTS)
def test_guidance_in_no_step_is_none(folders, name):
    never = painter(folders, name, guided=[0, 0]).paint([item()])[0]
    assert torch.equal(never.latents, painter(folders, name, guidance=1).paint([item()])[0].latents)


def test_guidance_in_a_part_of_the_steps_is_another_picture_than_in_all_or_none(folders):
    some, every, none = (
        painter(folders, "sd-inpaint", guided=[0, share]).paint([item()])[0].latents for share in (0.5, 1, 0)
    )
    assert not torch.equal(some, every)
    assert not torch.equal(some, none)


@pytest.mark.parametrize("every", [2, 3, 10])
def test_deep_layers_are_computed_once_in_so_many_steps(folders, every):
    made = painter(folders, "sd-inpaint", reuse=every)
    deep, first = sizes_seen(made._loaded(), lambda unet: unet.mid_block)
    last = []
    second = made._loaded().unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(lambda *_: last.append(1))
    made.paint([item()])
    first.remove(), second.remove()
    assert (len(deep), len(last)) == (-(-6 // every), 6)


def test_a_batch_of_another_size_computes_all(folders):
    made = painter(folders, "sd-inpaint", reuse=6, guided=[0, 0.5])
    seen, handle = sizes_seen(made._loaded(), lambda unet: unet.mid_block)
    made.paint([item()])
    handle.remove()
    assert seen == [2, 1]


@pytest.mark.parametrize("name", PAINTS)
def test_a_step_that_reuses_is_the_unet_with_the_layers_outputs_replaced(folders, name):
    """Beside torch's own hooks, which put in the outputs of a former call."""
    unet = painter(folders, name)._loaded().unet
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, PAINTS[name], 8, 8, generator=generator) for _ in range(2))
    text = torch.randn(1, 7, unet.config.cross_attention_dim, generator=generator)
    more = {"encoder_hidden_states": text}
    if name == "sdxl-inpaint":
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        more["added_cond_kwargs"] = {"text_embeds": torch.zeros(1, width), "time_ids": torch.zeros(1, 6)}
    *early, last = unet.up_blocks
    layers = [*unet.down_blocks, unet.mid_block, *early, *last.resnets[:-1], *getattr(last, "attentions", [])[:-1]]
    kept = {}
    with torch.no_grad():
        taken = [
            layer.register_forward_hook(lambda module, _, output: kept.__setitem__(module, output)) for layer in layers
        ]
        unet(first, torch.tensor(700), **more)
        [hook.remove() for hook in taken]
        put = [layer.register_forward_hook(lambda module, _, output: kept[module]) for layer in layers]
        expected = unet(second, torch.tensor(600), **more).sample
        [hook.remove() for hook in put]
        whole = unet(second, torch.tensor(600), **more).sample
        share_features(unet)
        step = reusing(unet, 2)
        step(first, torch.tensor(700), **more)
        found = step(second, torch.tensor(600), **more).sample
        afterwards = unet(second, torch.tensor(600), **more).sample
    assert torch.equal(found, expected)
    assert not torch.equal(found, whole)
    assert torch.equal(afterwards, whole)


def test_pictures_painted_side_by_side_keep_features_of_their_own(folders):
    made = painter(folders, "gligen-inpaint", reuse=3)
    items = [item(seed, ("a boat",)) for seed in range(4)]
    alone = [made._paint([one])[0].latents for one in items]
    beside = side_by_side(lambda one: made._paint([one])[0].latents, items)
    assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_keys_are_as_they_were_unless_something_is_set(folders):
    plain = PAINTERS.member("sd-inpaint", {"guided": [0, 1], "reuse": 1}).identity()
    assert plain == PAINTERS.member("sd-inpaint", {}).identity()
    assert not {"guided", "reuse"} & plain["settings"].keys()
    faster = PAINTERS.member("sd-inpaint", {"guided": [0, 0.5], "reuse": 2}).identity()
    assert (faster["settings"]["guided"], faster["settings"]["reuse"]) == ([0.0, 0.5], 2)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("sd-inpaint", {"guided": [0.6, 0.2]}, "expected from and to"),
        ("sd-inpaint", {"guided": [0, 1.5]}, "less than or equal to 1"),
        ("sd-inpaint", {"reuse": 0}, "greater than or equal to 1"),
        ("sd-inpaint", {"reuse": 2, "compile": True}, "do not go together"),
        ("latentpaint", {"reuse": 2}, "'reuse'"),
    ],
)
def test_what_cannot_work_is_refused(name, values, said):
    with pytest.raises(AugmentError, match=said):
        PAINTERS.settings(name, values)
