"""rt-detr, d-fine: transformers' detection transformers, small and from nothing, or from a checkpoint as it is.

RT-DETR (Zhao et al. 2023, arXiv 2304.08069) over a ResNet-18 of half its width, D-FINE (Peng et al. 2024, arXiv
2410.13842) over the smallest HGNetV2; losses, matching and denoising as the library has them. They find each object
once, without suppression of overlaps, and take many more steps to learn from nothing than detectors with anchors.

`weights`: a file of ours (lib/proof/detectors/weights.py), or a folder or hub id in Hugging Face form, whose
config.json then decides width, layers and queries. Ignored places: the class of a query whose box lies in one by more
than half, and overlaps no labelled box by half, counts nothing; the library has no such notion, so its logits are taken
out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from lib.core.checkpoints import ModelRef, reading
from lib.core.vision import normalisation, processor_of
from lib.proof.detectors import MOST, Base, Found, Target, TrainableSettings
from lib.proof.detectors.torch_vision import NOTHING, covered
from lib.proof.detectors.weights import found_folder, start_from

NEEDED = ("config.json", "*.safetensors")
STRIDES = (8, 16, 32)
HEAD = 32  # channels of an attention head


class HuggingSettings(TrainableSettings):
    width: int = Field(128, ge=32, le=512, multiple_of=32, description="channels of encoder and decoder")
    layers: int = Field(3, ge=1, le=12, description="of the decoder")
    queries: int = Field(100, ge=1, le=1000, description="objects a picture at most; fewer where it has fewer places")
    denoising: int = Field(
        50, ge=0, le=1000, description="labelled boxes with noise that each picture also learns from"
    )


class DetrNetwork(nn.Module):
    """A model of transformers' behind the contract; mean, std: (3,) of its pictures, 0 .. 1."""

    CLASS_HEAD = ("class_embed", "enc_score_head")

    def __init__(self, model: Any, mean: Any, std: Any) -> None:
        super().__init__()
        self.model = model
        self.notes: tuple[str, ...] = ()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None], persistent=False)
        model.loss_function = _without_ignored(model.loss_function)

    def losses(self, pictures: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """As Network.losses; beside the sum of all layers those of the last one."""
        side = pictures.shape[-1]
        labels = [
            {
                "class_labels": target.labels,
                "boxes": box_convert(target.boxes, "xyxy", "cxcywh") / side,
                "ignored": target.ignored / side,
            }
            for target in targets
        ]
        out = self.model(self._normalised(pictures), labels=labels)
        last = {"class": "loss_vfl", "box": "loss_bbox", "overlap": "loss_giou"}
        return {"loss": out.loss, **{name: out.loss_dict[key] for name, key in last.items()}}

    @torch.no_grad()
    def detect(self, pictures: Tensor) -> list[Found]:
        """As Network.detect."""
        out = self.model(self._normalised(pictures))
        return [self._found(*one, pictures.shape[-1]) for one in zip(out.logits, out.pred_boxes, strict=True)]

    def _normalised(self, pictures: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (pictures - mean) / std

    def _found(self, logits: Tensor, boxes: Tensor, side: int) -> Found:
        scores, at = logits.sigmoid().flatten().topk(min(MOST, logits.numel()))
        query, labels = at // logits.shape[1], at % logits.shape[1]
        inside = (box_convert(boxes[query], "cxcywh", "xyxy") * side).clamp(0, side)
        usable = ((inside[:, 2:] - inside[:, :2]) > 0).all(1)
        return Found(inside[usable], scores[usable], labels[usable])


def _without_ignored(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The library's loss with the logits of queries in ignored places replaced by a constant, which teaches nothing."""

    def computed(
        logits: Tensor, labels: Any, device: Any, boxes: Tensor, config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        classes, coords = args
        if any(len(target["ignored"]) for target in labels):
            classes = _silenced(classes, coords, labels)
            logits = classes[:, -1]
            proposed = kwargs["enc_topk_logits"], kwargs["enc_topk_bboxes"]
            kwargs["enc_topk_logits"] = _silenced(*proposed, labels)
        return loss(logits, labels, device, boxes, config, classes, coords, **kwargs)

    return computed


def _silenced(logits: Tensor, boxes: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
    """logits: (B, ..., classes); boxes: (B, ..., 4) cxcywh."""
    silent = torch.stack([_silent(one, target) for one, target in zip(boxes.detach(), labels, strict=True)])
    return torch.where(silent[..., None], NOTHING, logits)


def _silent(boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """(...,) of boxes (..., 4): in an ignored place and not on a labelled box."""
    corners = box_convert(boxes.reshape(-1, 4), "cxcywh", "xyxy")
    silent = covered(corners, target["ignored"])
    if len(target["boxes"]):
        silent &= box_iou(corners, box_convert(target["boxes"], "cxcywh", "xyxy")).amax(1) < 0.5
    return silent.reshape(boxes.shape[:-1])


class Hugging(Base):
    """What the two share."""

    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "Apache-2.0 (transformers); published checkpoints as their cards say"
    Settings: ClassVar[type[HuggingSettings]] = HuggingSettings
    NAME: ClassVar[str]
    KIND: ClassVar[str]  # model_type in config.json

    def build(self, classes: int) -> DetrNetwork:
        """As Trainable.build."""
        given = self.settings.weights
        if given is None or Path(given).expanduser().is_file() or given.endswith(".safetensors"):
            model = self._fresh(classes)
            network = DetrNetwork(model, (0.0,) * 3, (1.0,) * 3)
            if given is not None:
                network.notes = start_from(network, self.NAME, given, network.CLASS_HEAD)
            return network
        return self._started(given, classes)

    def config(self, classes: int) -> Any:
        """The configuration of a fresh model."""
        raise NotImplementedError

    def _common(self, classes: int) -> dict[str, Any]:
        settings = self.settings
        places = sum((settings.size // stride) ** 2 for stride in STRIDES)
        return {
            "num_labels": classes,
            "freeze_backbone_batch_norms": False,
            "d_model": settings.width,
            "encoder_hidden_dim": settings.width,
            "encoder_ffn_dim": 4 * settings.width,
            "decoder_ffn_dim": 4 * settings.width,
            "encoder_attention_heads": settings.width // HEAD,
            "decoder_attention_heads": settings.width // HEAD,
            "decoder_in_channels": [settings.width] * len(STRIDES),
            "decoder_layers": settings.layers,
            "num_queries": min(settings.queries, places),
            "num_denoising": settings.denoising,
            "hidden_expansion": 0.5,
        }

    def _fresh(self, classes: int) -> Any:
        import transformers

        model = getattr(transformers, self._class())(self.config(classes))
        _initialise(model)
        return model

    def _started(self, given: str, classes: int) -> DetrNetwork:
        import transformers

        folder, revision = found_folder(given, "weights", NEEDED, ("*.json",))
        with reading(ModelRef(given, revision, folder)):
            kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
            if kind != self.KIND:
                raise ValueError(f"its config.json says model_type {kind!r}; {self.KIND!r} was expected")
            model, report = getattr(transformers, self._class()).from_pretrained(
                folder,
                num_labels=classes,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            fresh = _check_whole(report, DetrNetwork.CLASS_HEAD)
            processor = processor_of(folder)
            normalised = processor.get("do_normalize", False)
            mean, std = normalisation(processor) if normalised else ((0.0,) * 3, (1.0,) * 3)
        network = DetrNetwork(model, mean, std)
        if fresh:
            network.notes = (f"starts from {given}; fresh, as it knew other classes: {', '.join(fresh)}",)
        return network

    def _class(self) -> str:
        raise NotImplementedError


class RtDetr(Hugging):
    """Over a ResNet-18, at half its width by default."""

    NAME: ClassVar[str] = "rt-detr"
    KIND: ClassVar[str] = "rt_detr"

    def config(self, classes: int) -> Any:
        """As Hugging.config."""
        from transformers import RTDetrConfig, RTDetrResNetConfig

        stages = [self.settings.width // 4 * 2**k for k in range(4)]
        backbone = RTDetrResNetConfig(
            embedding_size=stages[0],
            hidden_sizes=stages,
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_indices=[2, 3, 4],
        )
        common = self._common(classes)
        return RTDetrConfig(backbone_config=backbone, encoder_in_channels=stages[1:], **common)

    def _class(self) -> str:
        return "RTDetrForObjectDetection"


class DFine(Hugging):
    """Distances as distributions, refined from layer to layer."""

    NAME: ClassVar[str] = "d-fine"
    KIND: ClassVar[str] = "d_fine"

    def config(self, classes: int) -> Any:
        """As Hugging.config."""
        from transformers import DFineConfig, HGNetV2Config

        outside = [self.settings.width // 2 * 2**k for k in range(4)]
        stem = self.settings.width // 8
        backbone = HGNetV2Config(
            stem_channels=[3, stem, stem],
            stage_in_channels=[stem, *outside[:3]],
            stage_mid_channels=[stem * 2**k for k in range(4)],
            stage_out_channels=outside,
            hidden_sizes=outside,
            stage_num_blocks=[1, 1, 2, 1],
            stage_numb_of_layers=[3, 3, 3, 3],
            use_learnable_affine_block=True,
            out_indices=[2, 3, 4],
        )
        common = self._common(classes)
        return DFineConfig(backbone_config=backbone, encoder_in_channels=outside[1:], depth_mult=0.34, **common)

    def _class(self) -> str:
        return "DFineForObjectDetection"


def _initialise(model: Any) -> None:
    """Weights to learn from nothing: torch's own for convolutions, linear layers and norms, then the library's for the
    rest. The library draws all with a spread of 0.01, scales of batch norms included: meant to be loaded over.
    """
    plain = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, plain):
                module.reset_parameters()
        for module in model.modules():
            if not isinstance(module, plain):
                model._init_weights(module)


def _check_whole(report: dict[str, Any], class_head: tuple[str, ...]) -> list[str]:
    """The layers that stay fresh, as they knew other classes. Raises ValueError for other ones that do not fit."""
    differ = sorted({str(entry[0]) for entry in report["mismatched_keys"]})
    known = (*class_head, "denoising_class_embed")
    wrong = [name for name in [*sorted(report["missing_keys"]), *differ] if not any(part in name for part in known)]
    if wrong:
        raise ValueError(f"its weights lack or have otherwise {', '.join(wrong[:3])}: copy or download it again")
    return sorted({name.rpartition(".")[0] for name in differ})
