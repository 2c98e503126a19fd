"""Tiny random checkpoints in Hugging Face form, made on the fly, so that the real loading code runs in tests.

    folder = tiny_gligen(tmp_path / "gligen")                # 64 × 64 pixels in a few milliseconds a step
    folder = tiny_gligen(tmp_path / "inpaint", inpaint=True)
    folder = tiny_sd(tmp_path / "sd")                        # channels=9 for one that inpaints
    folder = tiny_sdxl(tmp_path / "sdxl")
    folder = tiny_stay(tmp_path / "stay")                    # 64 × 64 grey pixels; knows THINGS
    folder = tiny_pipeline(tmp_path / "flux", "flux")        # or sd3, flux-fill, chroma, qwen, z-image
    folder = tiny_blip2(tmp_path / "blip2")                  # language="t5" for an encoder-decoder
    folder = tiny_clip(tmp_path / "clip")                    # 64 × 64 pixels, 128 dimensions
    folder = tiny_detector(tmp_path / "yolos", "yolos")      # or rt_detr, detr: finds LABELS
    folder = tiny_owl(tmp_path / "owl")                      # OWLv2
    folder = tiny_torchvision(tmp_path / "vision")           # Faster R-CNN on MobileNet, 19 million weights: not tiny
    ref = resolve(str(folder), {})                           # or `painter: {name: gligen, model: FOLDER}`

Each is complete, of safetensors, equal bytes every time; one that is there already is left alone. As fixtures:

    @pytest.fixture(scope="session")
    def gligen_folder(tmp_path_factory): return tiny_gligen(tmp_path_factory.mktemp("tiny") / "gligen")
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lib.training import loop

loop.SAMPLED = 2  # every training ends with a sheet, which nobody looks at here
torch.set_num_threads(1)  # tiny models gain nothing from more, and test workers that share cores lose a lot

WORDS = """a the of on in and two three person fish boat box pallet forklift stack
red blue grey small large dark""".split()  # noqa: SIM905

THINGS = ("a fish", "cat", "dog", "forklift", "pallet", "a stack of boxes")  # of tiny_stay
LABELS = ("Forklift", "air-duct", "N/A", "Small Load Carrier")  # of the detectors, as foreign models spell them


def tiny_gligen(folder: Path, inpaint: bool = False) -> Path:
    """A gated Stable Diffusion of 32 channels: 8 pixels a latent cell, 4 (or 9) input channels. Returns `folder`."""
    return _tiny_diffusion(folder, 1, "StableDiffusionGLIGENPipeline", 9 if inpaint else 4, attention_type="gated")


def tiny_sd(folder: Path, channels: int = 4) -> Path:
    """A Stable Diffusion of that size without gates; channels: 4, or 9 for one that inpaints. Returns `folder`."""
    name = "StableDiffusionInpaintPipeline" if channels == 9 else "StableDiffusionPipeline"
    return _tiny_diffusion(folder, 4, name, channels)


def tiny_sdxl(folder: Path, channels: int = 9) -> Path:
    """An SDXL of that size: two text encoders, 32 and 16 wide, and a U-Net that receives sizes. Returns `folder`."""
    name = "StableDiffusionXLInpaintPipeline" if channels == 9 else "StableDiffusionXLPipeline"
    return _tiny_diffusion(
        folder,
        5,
        name,
        channels,
        second_text=16,
        cross_attention_dim=32 + 16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )


def tiny_stay(
    folder: Path,
    channels: int = 1,
    size: int = 64,
    max_objects: int = 31,
    vae: bool = False,
    keeps: bool = True,
    categories: Sequence[str] = THINGS,
) -> Path:
    """A LayoutUNet 16 wide, of size × size pixels; vae: in the latents of an autoencoder with 8 pixels a cell."""
    from diffusers import DDIMScheduler

    from lib.painting.painters.stay_unet import LayoutUNet

    if (folder / "unet").exists():
        return folder
    with _seeded(9):
        unet = LayoutUNet(
            categories=list(categories),
            sample_size=size // 8 if vae else size,
            channels=4 if vae else channels,
            patch=1 if vae else 4,
            block_out_channels=[16, 16],
            norm_num_groups=4,
            max_objects=max_objects,
            style_dim=8,
            label_dim=8,
            mask_size=4,
            keeps=keeps,
        )
        with torch.no_grad():
            for weight in unet.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.15)  # the usual zeros at its end say the same of everything
        if vae:
            _vae().save_pretrained(folder / "vae")
    DDIMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2").save_pretrained(
        folder / "scheduler"
    )
    unet.save_pretrained(folder / "unet")
    return folder


def tiny_pipeline(folder: Path, family: str) -> Path:
    """A pipeline of today's families, as diffusers saves it: a name of _FAMILIES."""
    import diffusers

    if (folder / "model_index.json").exists():
        return folder
    with _seeded(6):
        name, parts = _FAMILIES[family]()
        vae = parts.setdefault("vae", _wide_vae())
        with torch.no_grad():
            for block in parts.values():
                if isinstance(block, torch.nn.Module) and block is not vae:
                    _fill(block)
        getattr(diffusers, name)(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **parts).save_pretrained(folder)
    return folder


def tiny_control(folder: Path, family: str, base: Path) -> Path:
    """A ControlNet for a pipeline of `tiny_sd`, `tiny_sdxl` or `tiny_pipeline` in the folder `base`."""
    import diffusers

    with _seeded(8), torch.no_grad():
        if family in ("sd", "sdxl"):
            unet = diffusers.UNet2DConditionModel.from_pretrained(base / "unet")
            made: Any = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8,) * 4)
        else:
            name = {"sd3": "SD3ControlNetModel", "flux": "FluxControlNetModel", "qwen": "QwenImageControlNetModel"}[
                family
            ]
            kind = getattr(diffusers, name)
            config = json.loads((base / "transformer" / "config.json").read_bytes())
            known = inspect.signature(kind.__init__).parameters
            config = {name: value for name, value in config.items() if name in known}
            made = kind(
                **config,
                **{"sd3": {"extra_conditioning_channels": 1}, "qwen": {"extra_condition_channels": 4}}.get(family, {}),
            )
        _fill(made)
        made.save_pretrained(folder)
    return folder


def _fill(model: Any) -> None:
    """Random weights that a step notices; some of these models leave a part as it was in memory."""
    for weight in model.parameters():
        weight.normal_(std=0.1 if weight.ndim > 1 else 0.02).add_(0 if weight.ndim > 1 else 1)


def _wide_vae(channels: int = 4) -> Any:
    """As Stable Diffusion 3 and FLUX have it: 2 pixels a latent cell here, shifted latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=32,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _sd3() -> tuple[str, dict[str, Any]]:
    from diffusers import SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=16,
    )  # fmt: skip
    texts = {f"text_encoder{part}": _clip_text(16, projected=True) for part in ("", "_2")}
    tokenizers = {f"tokenizer{part}": _clip_tokenizer() for part in ("", "_2")}
    t5 = {"text_encoder_3": None, "tokenizer_3": None}  # as those who have little memory load it
    parts = {"transformer": transformer, "vae": _wide_vae(16), **texts, **tokenizers, **t5}
    return "StableDiffusion3Pipeline", parts


def _flux(name: str = "FluxPipeline", channels: int = 16, out: int = 16) -> tuple[str, dict[str, Any]]:
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=channels, out_channels=out, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    texts = {"text_encoder": _clip_text(), "tokenizer": _clip_tokenizer()}
    return name, {"transformer": transformer, **texts, "text_encoder_2": _t5(), "tokenizer_2": _t5_tokenizer()}


def _flux_fill() -> tuple[str, dict[str, Any]]:
    return _flux("FluxFillPipeline", channels=16 + 16 + 16)  # latents, masked latents, 2 × 2 × 2 × 2 mask pixels


def _chroma() -> tuple[str, dict[str, Any]]:
    from diffusers import ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    return "ChromaPipeline", {"transformer": transformer, "text_encoder": _t5(), "tokenizer": _t5_tokenizer()}


def _qwen() -> tuple[str, dict[str, Any]]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 16}
    text = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 300}
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config={**small, **text, "rope_scaling": rope},
        vision_config={**small, "depth": 1, "num_heads": 2, "out_hidden_size": 16},
    )
    encoder = Qwen2_5_VLForConditionalGeneration(config)
    parts = {"transformer": transformer, "vae": vae, "text_encoder": encoder, "tokenizer": _byte_tokenizer()}
    return "QwenImagePipeline", parts


def _z_image() -> tuple[str, dict[str, Any]]:
    from diffusers import ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[1024, 32, 32],
    )  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = Qwen3Model(Qwen3Config(**text, num_key_value_heads=2, head_dim=8, vocab_size=300))
    parts = {"transformer": transformer, "text_encoder": encoder, "tokenizer": _byte_tokenizer()}
    return "ZImagePipeline", parts


_FAMILIES = {
    "sd3": _sd3,
    "flux": _flux,
    "flux-fill": _flux_fill,
    "kontext": lambda: _flux("FluxKontextPipeline"),
    "chroma": _chroma,
    "qwen": _qwen,
    "z-image": _z_image,
}


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(d_model=32, d_ff=32, d_kv=16, num_layers=1, num_heads=2, vocab_size=64))


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)]
    return T5Tokenizer(vocab=pieces + [(letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyz"], extra_ids=0)


def _byte_tokenizer() -> Any:
    """Of Qwen's kind: every byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )


def _tiny_diffusion(
    folder: Path, seed: int, pipeline: str, channels: int, second_text: int | None = None, **unet_config: Any
) -> Path:
    """A checkpoint in diffusers' form; second_text: width of a second text encoder."""
    from diffusers import PNDMScheduler, UNet2DConditionModel, __version__

    if (folder / "model_index.json").exists():
        return folder
    with _seeded(seed):
        config = {
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": 4,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        }
        unet = UNet2DConditionModel(**{**config, **unet_config})
        vae = _vae()
        blocks = {"text_encoder": _clip_text(), "tokenizer": _clip_tokenizer(), "unet": unet, "vae": vae}
        if second_text is not None:
            blocks |= {"text_encoder_2": _clip_text(second_text, projected=True), "tokenizer_2": _clip_tokenizer()}
        with torch.no_grad():
            _open_gates(unet)
            vae.decoder.conv_out.weight *= 3  # random weights give grey pictures, equal once they are uint8
    blocks["scheduler"] = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    for name, block in blocks.items():
        block.save_pretrained(folder / name)
    # Written last: its existence means that the checkpoint is complete.

    index = {
        "_class_name": pipeline,
        "_diffusers_version": __version__,
        **{name: _class(block) for name, block in sorted(blocks.items())},
    }
    if second_text is not None:
        index["force_zeros_for_empty_prompt"] = True
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _class(block: Any) -> list[str]:
    """Library and class, as model_index.json names them."""
    return [type(block).__module__.partition(".")[0], type(block).__name__]


def tiny_blip2(folder: Path, language: str = "opt") -> Path:
    """A BLIP-2 that says WORDS at random, another sentence for another picture. language: opt or t5."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    if (folder / "config.json").exists():
        return folder
    tokenizer = _word_tokenizer()
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        "opt": {"model_type": "opt", **_opt_sizes(), **shared},
        "t5": {"model_type": "t5", **_t5_sizes(), **shared, "decoder_start_token_id": tokenizer.pad_token_id},
    }[language]
    config = Blip2Config(
        vision_config={**small, "image_size": 16, "patch_size": 8},
        qformer_config={**small, "encoder_hidden_size": 16, "vocab_size": len(tokenizer)},
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with _seeded(2):
        model = Blip2ForConditionalGeneration(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 or "query_tokens" in name:
                    weight.normal_(std=0.5)  # the usual .02 says the same word for every picture
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_query_tokens=config.num_query_tokens
    )
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def tiny_clip(folder: Path) -> Path:
    """A CLIP of the mini one's size and form, as lib/training/clip.py saves it, that tells crops and texts apart."""
    from lib.training.clip import TOKENS, ClipObjective, make_clip

    if (folder / "config.json").exists():
        return folder
    tokenizer = _clip_tokenizer()
    tokenizer.model_max_length = TOKENS
    with _seeded(3):
        clip = make_clip(tokenizer).eval()
        with torch.no_grad():
            for weight in clip.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.2)  # the usual .02 gives about one embedding for everything
    ClipObjective(clip, tokenizer, [], 64).save(folder)
    return folder


def tiny_detector(folder: Path, kind: str = "yolos") -> Path:
    """A detection model of transformers with 8 boxes a picture, labels at random among LABELS. Returns `folder`.

    kind: yolos, detr (softmax with "no object") or rt_detr (a sigmoid a label).
    """
    import transformers as t

    if (folder / "config.json").exists():
        return folder
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    small: dict[str, Any] = {"d_model": 16, "num_queries": 8, "encoder_layers": 1, "decoder_layers": 1, **heads}
    stages = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    with _seeded(6):
        if kind == "yolos":
            sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
            config = t.YolosConfig(**sizes, image_size=[32, 32], num_detection_tokens=8, **_labels())
            model, processor = t.YolosForObjectDetection(config), t.YolosImageProcessor(size=_SQUARE)
        elif kind == "detr":
            backbone = t.ResNetConfig(**stages, out_features=["stage4"])
            config = t.DetrConfig(backbone_config=backbone, **small, **_labels())
            model, processor = t.DetrForObjectDetection(config), t.DetrImageProcessor(size=_SQUARE)
        else:
            backbone = t.RTDetrResNetConfig(**stages, out_indices=[2, 3, 4])
            channels = {"encoder_in_channels": [8, 16, 16], "decoder_in_channels": [16] * 3, "encoder_hidden_dim": 16}
            config = t.RTDetrConfig(backbone_config=backbone, **small, **channels, num_denoising=0, **_labels())
            model, processor = t.RTDetrForObjectDetection(config), t.RTDetrImageProcessor(size=_SQUARE)
        _roughen(model)
    processor.save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return folder


def tiny_owl(folder: Path) -> Path:
    """An OWLv2 with 16 boxes a picture of 32 × 32 pixels that reads 16 letters. Returns `folder`."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    if (folder / "config.json").exists():
        return folder
    tokenizer = _clip_tokenizer()
    tokenizer.model_max_length = 32
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = Owlv2Config(
        text_config={**small, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with _seeded(7):
        model = Owlv2ForObjectDetection(config).eval()
        _roughen(model)
    Owlv2Processor(Owlv2ImageProcessor(size=_SQUARE), tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def tiny_torchvision(folder: Path, architecture: str = "fasterrcnn_mobilenet_v3_large_fpn") -> Path:
    """A detector of torchvision that finds LABELS, named in its file, in half precision. Returns `folder`."""
    from safetensors.torch import save_file
    from torchvision.models import detection

    if folder.exists():
        return folder
    with _seeded(8):
        model = getattr(detection, architecture)(weights=None, weights_backbone=None, num_classes=len(LABELS) + 1)
        if "roi_heads.box_predictor.cls_score.weight" in model.state_dict():
            torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    state = {
        name: values.half() if values.is_floating_point() else values for name, values in model.state_dict().items()
    }
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors", {"names": json.dumps(LABELS)})
    return folder


_SQUARE = {"height": 32, "width": 32}  # pixels that the detectors see


def _labels() -> dict[str, Any]:
    return {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}


def _roughen(model: Any) -> None:
    """The usual small weights would find the same in every picture."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.4)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global random numbers from a seed inside, as they were afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _open_gates(unet: Any) -> None:
    """Grounding has no effect in a fresh U-Net: its gates are 0 and its null features too."""
    for name, weight in unet.named_parameters():
        if name.endswith(("alpha_attn", "alpha_dense")):
            weight.fill_(1.0)
        if ".fuser.linear" in name or ("position_net" in name and weight.ndim > 1):
            weight.mul_(3)
        if "position_net.null" in name:
            weight.normal_(std=0.5)


def _clip_text(width: int = 32, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocab = _clip_vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],  # the default of 49407 would pool the first token, equal for every phrase
        pad_token_id=vocab["<|endoftext|>"],
        **({"projection_dim": width} if projected else {}),
    )
    model = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.2)  # the usual .02 gives all texts about one embedding
    return model


def _clip_vocabulary() -> dict[str, int]:
    """Every byte, inside and at the end of a word: any text can be spelled, without merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=77)


def _word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer


def _opt_sizes() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }


def _t5_sizes() -> dict[str, Any]:
    return {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2}


def tiny_vision_language(folder: Path) -> Path:
    """A Qwen2.5-VL that answers bytes at random, with a chat form."""
    import transformers

    if (folder / "config.json").exists():
        return folder
    tokenizer = _byte_tokenizer()
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    tokenizer.chat_template = None
    start, end, image, video = tokenizer.convert_tokens_to_ids(marks)
    small = {"hidden_size": 16, "intermediate_size": 16}
    text = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**small, **text, **ids, "rope_scaling": rope},
        vision_config={**small, "depth": 1, "num_heads": 2, "out_hidden_size": 16, "fullatt_block_indexes": [0]},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
        **ids,
    )
    with _seeded(8):
        model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.5)
    chat = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }} {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    )
    images = transformers.Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 56 * 56})
    videos = transformers.Qwen2VLVideoProcessor()
    transformers.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=chat).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
