"""diffusers-inpaint: any inpainting pipeline of diffusers, by hub id or folder.

Window, mask, composite, keys and labels are this project's; how the mask is filled is the pipeline's, and so are the
settings that are left out. A line of PIPELINES says which class inpaints with the weights of which pipeline: diffusers'
own table, AutoPipelineForInpainting, lacks FLUX Fill, Kontext, FLUX.2 Klein and Chroma.

Passes are painted one at a time, from a generator each, so that a picture's bits do not depend on its neighbours. The
version of diffusers is part of a picture's key.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from lib.core.checkpoints import ModelRef, check_files, load_whole, local_path, reading, silent
from lib.core.compute import device
from lib.core.errors import AugmentError, unknown
from lib.core.quantize import Quantize, check_quantize, quantized
from lib.core.registry import MemberSettings
from lib.core.stopping import check_stop
from lib.painting.painters import INPAINTING, Paint, PassInput
from lib.painting.painters.control import ControlChoice, Controlled, check_control, controlled, hint_of, load_control
from lib.painting.painters.denoise import DiffusionPainter, Size, aspect_shape
from lib.painting.painters.lora import LoraChoice, lora_file
from lib.painting.painters.words import FOLDER

if TYPE_CHECKING:
    import torch

# Pipeline in a checkpoint's model_index.json → the class that inpaints with its weights, and takes itself too.
PIPELINES: Mapping[str, str] = {
    "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3InpaintPipeline",
    "FluxPipeline": "FluxInpaintPipeline",
    "FluxFillPipeline": "FluxFillPipeline",
    "FluxKontextPipeline": "FluxKontextInpaintPipeline",
    "Flux2KleinPipeline": "Flux2KleinInpaintPipeline",
    "ChromaPipeline": "ChromaInpaintPipeline",
    "QwenImagePipeline": "QwenImageInpaintPipeline",
    "QwenImageEditPipeline": "QwenImageEditInpaintPipeline",
    "ZImagePipeline": "ZImageInpaintPipeline",
}
# Licences of the checkpoints that presets name; those of others stand on their cards.
LICENCES: Mapping[str, str] = {
    "Tongyi-MAI/Z-Image-Turbo": "Apache-2.0",
    "black-forest-labs/FLUX.1-Fill-dev": "FLUX.1 [dev] Non-Commercial; to be accepted on the hub (`hf auth login`)",
    "Qwen/Qwen-Image-Edit": "Apache-2.0",
}
INDEX = "model_index.json"
SMALL = ("*/*.json", "*/*.txt", "*/*.model", "*/*.jinja")
ALSO = (*SMALL, "*/*.safetensors")
NEVER = ("*.fp16.*", "*.non_ema.*")  # twins of files that are loaded
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # where a pipeline can do without
_DENOISERS = ("unet/config.json", "transformer/config.json")
LARGE = ("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3")  # what is quantized


class DiffusersInpaintSettings(LoraChoice, ControlChoice):
    """Where `steps` or `guidance` are none, they are the pipeline's own."""

    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps; none: the pipeline's own")
    guidance: float | None = Field(
        None, ge=0, description="guidance scale (Qwen-Image: true_cfg_scale); none: the pipeline's own"
    )
    strength: float = Field(
        1.0, gt=0, le=1, description="1 paints anew; less begins from the old object, which then shows"
    )
    size: Size = 1024
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="precision of the weights; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    quantize: Quantize = Field(
        "no", description="weights of transformer and texts in 8 or 4 bits; needs a GPU and bitsandbytes"
    )
    offload: Literal["auto", "no", "model", "sequential"] = Field(
        "auto",
        description="on a GPU: parts wait in the CPU's memory (model), layer by layer (sequential, slow); auto: model "
        "where they do not fit together",
    )
    diffusers: str = Field(
        default_factory=lambda: version("diffusers"),
        description="version that paints; it is part of the key, and must be the installed one",
    )

    @field_validator("diffusers")
    @classmethod
    def _check_version(cls, given: str) -> str:
        if given != version("diffusers"):
            raise ValueError(f"diffusers {version('diffusers')} is installed: leave it out, or install {given}")
        return given


class DiffusersInpaint(DiffusionPainter):
    """A pipeline of diffusers behind the contract of painters."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = INPAINTING
    MODEL: ClassVar[str | None] = "Tongyi-MAI/Z-Image-Turbo"
    LICENCE: ClassVar[str] = LICENCES["Tongyi-MAI/Z-Image-Turbo"]
    LICENCES: ClassVar[Mapping[str, str]] = LICENCES
    SIDE_BY_SIDE: ClassVar[bool] = False
    Settings: ClassVar[type[MemberSettings]] = DiffusersInpaintSettings

    def __init__(self, settings: Any, model: ModelRef) -> None:
        super().__init__(settings, model)
        self.lora: ModelRef | None = None  # given by the family's `build`
        self.controlnet: ModelRef | None = None  # likewise
        self._pipeline: Any = None

    @staticmethod
    def shape(settings: Any, width: int, height: int) -> tuple[int, int]:
        """(height, width): the window's aspect at about size² pixels, sides multiples of 32."""
        return aspect_shape(settings.size, width, height, multiple=32)

    @property
    def batch_size(self) -> int:
        """One: a pipeline's bits would depend on the neighbours."""
        return 1

    def check(self) -> None:
        """Raises AugmentError for a pipeline that cannot inpaint, or lacks a part, where quantization is not possible
        here, and for a LoRA or a ControlNet of another base; no weights are read but the LoRA's."""
        index = _index(self.ref)
        kind = _load_class(self.ref, index, self._control)
        check_quantize(self.settings.quantize)
        with reading(self.ref):
            parts = _parts(index, kind, () if self._control is None else ("controlnet",))
        check_files(self.ref, [INDEX, *(f"{name}/*.safetensors" for name, part in parts.items() if _has_weights(part))])
        if self.controlnet is not None and self._control is not None:
            check_control(self.controlnet, self._control, _denoiser(local_path(self.ref, [INDEX], _DENOISERS)))
        if self.lora is not None:
            _check_lora(self.ref, index, self.lora, self.settings)

    @cached_property
    def _control(self) -> Controlled | None:
        """The pipeline with a ControlNet, where there is to be one."""
        if self.controlnet is None:
            return None
        return controlled(_inpainting_name(self.ref, _index(self.ref)), self.settings.hint)

    def _loaded(self) -> Any:
        if self._pipeline is None:
            self._pipeline = _load(self.ref, self.settings, self.lora, self.controlnet, self._control)
        return self._pipeline

    def _paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        return [Paint(self._painted(item)) for item in batch]

    def _painted(self, item: PassInput) -> Any:
        import numpy as np
        import torch
        from PIL import Image

        pipeline, (height, width) = self._loaded(), item.step.shape
        values = {
            "prompt": item.step.prompt,
            "negative_prompt": item.step.negative_prompt or " ",
            "image": Image.fromarray(item.canvas),
            "mask_image": Image.fromarray(np.where(item.mask, 255, 0).astype(np.uint8)),
            "height": height,
            "width": width,
            "strength": self.settings.strength,
            "generator": torch.Generator("cpu").manual_seed(item.step.seed),
            "output_type": "pil",
            "callback_on_step_end": _stopping,
            "_auto_resize": False,  # Kontext would paint at a size of its own
        }
        values |= _chosen(type(pipeline), self.settings)
        if self._control is not None:
            values |= hint_of(item, self._control, self.settings)
        known = inspect.signature(type(pipeline).__call__).parameters
        with torch.no_grad(), silent(), torch.random.fork_rng():
            torch.manual_seed(item.step.seed)  # Qwen-Image's with a ControlNet encodes without the generator
            image = pipeline(**{name: value for name, value in values.items() if name in known}).images[0]
        painted = np.asarray(image.convert("RGB"))
        if painted.shape[:2] != (height, width):
            raise ValueError(f"{type(pipeline).__name__} painted {painted.shape[:2]}, {(height, width)} was expected")
        return np.array(painted)

    def _too_large(self, shape: tuple[int, int]) -> str:
        help_ = "set the painter's quantize to 4bit, its offload to sequential, or its size lower"
        return f"{super()._too_large(shape)}: {help_}"


def _stopping(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Between two steps: end where the run is to end."""
    check_stop()
    return values


def _chosen(kind: type, settings: DiffusersInpaintSettings) -> dict[str, Any]:
    """Arguments of the settings that are given."""
    # Qwen's pipelines have a guidance_scale too, for models that are distilled with one.
    guidance = "true_cfg_scale" if kind.__name__.startswith("Qwen") else "guidance_scale"
    given = {"num_inference_steps": settings.steps, guidance: settings.guidance}
    return {name: value for name, value in given.items() if value is not None}


def _index(ref: ModelRef) -> dict[str, Any]:
    """A checkpoint's model_index.json."""
    from lib.core.documents import read_json

    return dict(read_json(local_path(ref, [INDEX]) / INDEX, "a model_index.json of diffusers", dict))


def pipeline_name(ref: ModelRef) -> str | None:
    """The pipeline that a checkpoint was saved from; None where it does not say so."""
    try:
        return str(_index(ref)["_class_name"])
    except (AugmentError, KeyError):
        return None


def load_pipeline(ref: ModelRef, settings: DiffusersInpaintSettings) -> Any:
    """The pipeline that inpaints with a checkpoint, on its device. Raises AugmentError where it cannot be loaded."""
    return _load(ref, settings, None, None, None)


def _inpainting_name(ref: ModelRef, index: Mapping[str, Any]) -> str:
    """The pipeline that inpaints with a checkpoint. Raises AugmentError where none does."""
    name = str(index.get("_class_name"))
    inpaints = PIPELINES.get(name, name if name in PIPELINES.values() else None)
    if inpaints is None:
        raise AugmentError(f"model {ref} cannot inpaint: {unknown('pipeline', name, sorted(PIPELINES))}")
    return inpaints


def _load_class(ref: ModelRef, index: Mapping[str, Any], control: Controlled | None) -> Any:
    """The class of the pipeline. Raises AugmentError where none inpaints, or the installed diffusers lacks it."""
    import diffusers

    name = control.pipeline if control else _inpainting_name(ref, index)
    kind = getattr(diffusers, name, None)
    if kind is None:
        lacks = f"diffusers {version('diffusers')} lacks"
        raise AugmentError(f"model {ref} needs {name}, which {lacks}: install a newer one")
    return kind


def _load(
    ref: ModelRef,
    settings: DiffusersInpaintSettings,
    lora: ModelRef | None,
    controlnet: ModelRef | None,
    control: Controlled | None,
) -> Any:
    """The pipeline, on its device. Raises as `check` does, and for an incomplete or broken checkpoint, LoRA, or
    ControlNet."""
    import torch

    index, where = _index(ref), device()
    kind = _load_class(ref, index, control)
    check_quantize(settings.quantize)
    name = settings.dtype if settings.dtype != "auto" else "bfloat16" if where.type == "cuda" else "float32"
    dtype, folder = getattr(torch, name), local_path(ref, [INDEX], ALSO, NEVER)
    beside = {}
    if control and controlnet:
        beside["controlnet"] = load_control(controlnet, control, _denoiser(folder), dtype)
    with reading(ref):
        parts = _parts(index | beside, kind)
        load = partial(_loaded_part, dtype=dtype, quantize=settings.quantize)
        pipeline = kind(**{name: _made(folder / name, part, load) for name, part in parts.items()})
    if kind.__name__ == "ChromaInpaintPipeline":  # reads this of its transformer, which does not have it
        pipeline.transformer.register_to_config(guidance_embeds=False)
    if lora is not None:
        _add_lora(pipeline, lora, settings)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    _place(pipeline, where, settings.offload)
    return pipeline


def _denoiser(folder: Path) -> dict[str, Any]:
    """Configuration of a checkpoint's U-Net or transformer."""
    from lib.core.documents import read_json

    files = [folder / name for name in _DENOISERS]
    return dict(read_json(next(filter(Path.exists, files), files[0]), "a config.json of diffusers", dict))


def _parts(index: Mapping[str, Any], kind: Any, beside: Sequence[str] = ()) -> dict[str, Any]:
    """What a pipeline is made of, by its parameters: a class, whose files lie in a folder of that name, or a value.

    beside: parameters that are not the checkpoint's. Raises ValueError for a part that cannot be used.
    """
    parts: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        entry = index.get(name)
        optional = parameter.default is not inspect.Parameter.empty or name in kind._optional_components
        if name == "requires_safety_checker":
            parts[name] = False
        elif name in LEFT_OUT and (optional or name == "safety_checker"):
            parts[name] = None
        elif isinstance(entry, list) and len(entry) == 2:
            parts[name] = _class_of(name, *entry)
        elif entry is not None:
            parts[name] = entry  # a switch of the pipeline, or what stands beside the checkpoint
        elif not optional and name not in beside:
            raise ValueError(f"its {INDEX} lacks {name}, which {kind.__name__} needs")
    return parts


def _class_of(part: str, library: Any, name: Any) -> Any:
    """The class of a component, by the library and class that the checkpoint names; None where it has none."""
    import diffusers
    import torch
    import transformers

    if library is None or name is None:
        return None
    if library not in ("diffusers", "transformers"):
        raise ValueError(f"{part} is a {library}.{name}: code that a checkpoint brings along is never run")
    kind = getattr(importlib.import_module(library), str(name), None)
    if kind is None:
        raise ValueError(f"{library} {version(library)} has no {name}: install a newer one")
    small = (diffusers.SchedulerMixin, transformers.PreTrainedTokenizerBase, transformers.ProcessorMixin)
    if not isinstance(kind, type) or not issubclass(kind, (torch.nn.Module, *small)):
        raise ValueError(f"{part} is a {name}: a model, scheduler, tokenizer or processor was expected")
    return kind


def _has_weights(part: Any) -> bool:
    import torch

    return isinstance(part, type) and issubclass(part, torch.nn.Module)


def _made(folder: Path, part: Any, load: Callable[[Path, Any], Any]) -> Any:
    """A part of a pipeline, what has weights by `load`."""
    if not isinstance(part, type):
        return part
    made: Any = part
    return load(folder, part) if _has_weights(part) else made.from_pretrained(folder)


def _loaded_part(folder: Path, kind: Any, dtype: torch.dtype, quantize: Quantize) -> Any:
    import transformers

    library = "transformers" if issubclass(kind, transformers.PreTrainedModel) else "diffusers"
    options = {"dtype" if library == "transformers" else "torch_dtype": dtype}
    return load_whole(kind, folder, **options, **quantized(library, quantize if folder.name in LARGE else "no", dtype))


def _bare_part(folder: Path, kind: Any) -> Any:
    """A model without weights, as its config.json describes it."""
    import torch
    import transformers

    with torch.device("meta"):
        if issubclass(kind, transformers.PreTrainedModel):
            return kind(kind.config_class.from_pretrained(folder))
        return kind.from_config(kind.load_config(folder))


def _check_lora(ref: ModelRef, index: Mapping[str, Any], lora: ModelRef, settings: DiffusersInpaintSettings) -> None:
    """Raises what adding a LoRA would, in seconds: it is added to the pipeline without weights."""
    kind, folder = _load_class(ref, index, None), local_path(ref, [INDEX], SMALL, NEVER)
    with reading(ref):
        parts = _parts(index, kind)
        pipeline = kind(**{name: _made(folder / name, part, _bare_part) for name, part in parts.items()})
    _load_lora(pipeline, lora, settings)


def _add_lora(pipeline: Any, ref: ModelRef, settings: DiffusersInpaintSettings) -> None:
    """Add a LoRA to the weights, of texts too where it has some. Raises as `_load_lora` does."""
    _load_lora(pipeline, ref, settings)
    with reading(ref):
        pipeline.fuse_lora(lora_scale=settings.lora_scale)
        pipeline.unload_lora_weights()


def _load_lora(pipeline: Any, ref: ModelRef, settings: DiffusersInpaintSettings) -> None:
    """Load a LoRA beside the weights. Raises AugmentError for one of another base."""
    path = lora_file(ref, settings.lora_file)
    with reading(ref):
        if not hasattr(pipeline, "load_lora_weights"):
            raise ValueError(f"{type(pipeline).__name__} takes no LoRA")
        if (path.parent / FOLDER).is_dir():
            raise ValueError(
                "it has words for categories, which this painter does not read: take the painter of its base "
                "(gligen-inpaint, sd-inpaint, …), or train it without `words`"
            )
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
        if not pipeline.get_active_adapters():
            raise ValueError(f"{path.name} has nothing for {type(pipeline).__name__}: it is a LoRA of another base")


def _place(pipeline: Any, where: torch.device, offload: str) -> None:
    """Onto the device, as a whole or in parts."""
    import torch

    if where.type != "cuda":
        return
    if offload == "auto":
        modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
        size = sum(weight.nbytes for module in modules for weight in module.parameters())
        offload = "model" if size > 0.8 * torch.cuda.mem_get_info()[0] else "no"
    if offload == "model":
        pipeline.enable_model_cpu_offload()
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload()
    else:
        with contextlib.suppress(ValueError):  # 8-bit modules are there already, and refuse
            pipeline.to(where)
