"""A pipeline of diffusers from its checkpoint: the class that inpaints with it, its parts, a LoRA or ControlNet beside.

    checkpoint = PipelineCheckpoint(ref, settings)      # settings: DiffusersInpaintSettings
    checkpoint.check(); pipeline = checkpoint.load()

A line of PIPELINES says which class inpaints with the weights of which pipeline: diffusers' own table,
AutoPipelineForInpainting, lacks FLUX Fill, Kontext, FLUX.2 Klein and Chroma.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.checkpoints import ModelRef, check_files, load_whole, local_path, reading
from lib.core.compute import device
from lib.core.errors import AugmentError, unknown
from lib.core.quantize import Quantize, check_quantize, quantized
from lib.painting.painters.control import Controlled, check_control, controlled, load_control
from lib.painting.painters.lora import lora_file
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
INDEX = "model_index.json"
SMALL = ("*/*.json", "*/*.txt", "*/*.model", "*/*.jinja")
ALSO = (*SMALL, "*/*.safetensors")
NEVER = ("*.fp16.*", "*.non_ema.*")  # twins of files that are loaded
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # where a pipeline can do without
_DENOISERS = ("unet/config.json", "transformer/config.json")
LARGE = ("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3")  # what is quantized


@dataclass(frozen=True)
class PipelineCheckpoint:
    """A checkpoint in diffusers' layout, and what is added to it."""

    ref: ModelRef
    settings: Any  # DiffusersInpaintSettings
    lora: ModelRef | None = None
    controlnet: ModelRef | None = None

    def check(self) -> None:
        """Raises AugmentError for a pipeline that cannot inpaint, or lacks a part, where quantization is not possible
        here, and for a LoRA or a ControlNet of another base; no weights are read but the LoRA's."""
        index, control = self._index, self.control
        kind = _load_class(self.ref, index, control)
        check_quantize(self.settings.quantize)
        with reading(self.ref):
            parts = _parts(index, kind, () if control is None else ("controlnet",))
        files = [INDEX, *(f"{name}/*.safetensors" for name, part in parts.items() if _has_weights(part))]
        check_files(self.ref, files)
        if self.controlnet is not None and control is not None:
            check_control(self.controlnet, control, _denoiser(local_path(self.ref, [INDEX], _DENOISERS)))
        if self.lora is not None:
            _check_lora(self.ref, index, self.lora, self.settings)

    @cached_property
    def control(self) -> Controlled | None:
        """The pipeline with a ControlNet, where there is to be one."""
        if self.controlnet is None:
            return None
        return controlled(_inpainting_name(self.ref, self._index), self.settings.hint)

    @cached_property
    def _index(self) -> dict[str, Any]:
        return _index(self.ref)

    def load(self) -> Any:
        """The pipeline that inpaints with it, on its device. Raises as `check` does, and for an incomplete or broken
        checkpoint, LoRA, or ControlNet."""
        import torch

        settings, index, where = self.settings, self._index, device()
        kind = _load_class(self.ref, index, self.control)
        check_quantize(settings.quantize)
        name = settings.dtype if settings.dtype != "auto" else "bfloat16" if where.type == "cuda" else "float32"
        dtype, folder = getattr(torch, name), local_path(self.ref, [INDEX], ALSO, NEVER)
        beside = {}
        if self.control and self.controlnet:
            beside["controlnet"] = load_control(self.controlnet, self.control, _denoiser(folder), dtype)
        with reading(self.ref):
            parts = _parts(index | beside, kind)
            load = partial(_loaded_part, dtype=dtype, quantize=settings.quantize)
            pipeline = kind(**{name: _made(folder / name, part, load) for name, part in parts.items()})
        if kind.__name__ == "ChromaInpaintPipeline":  # reads this of its transformer, which does not have it
            pipeline.transformer.register_to_config(guidance_embeds=False)
        if self.lora is not None:
            _add_lora(pipeline, self.lora, settings)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        pipeline.set_progress_bar_config(disable=True)
        _place(pipeline, where, settings.offload)
        return pipeline


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


def _check_lora(ref: ModelRef, index: Mapping[str, Any], lora: ModelRef, settings: Any) -> None:
    """Raises what adding a LoRA would, in seconds: it is added to the pipeline without weights."""
    kind, folder = _load_class(ref, index, None), local_path(ref, [INDEX], SMALL, NEVER)
    with reading(ref):
        parts = _parts(index, kind)
        pipeline = kind(**{name: _made(folder / name, part, _bare_part) for name, part in parts.items()})
    _load_lora(pipeline, lora, settings)


def _add_lora(pipeline: Any, ref: ModelRef, settings: Any) -> None:
    """Add a LoRA to the weights, of texts too where it has some. Raises as `_load_lora` does."""
    _load_lora(pipeline, ref, settings)
    with reading(ref):
        pipeline.fuse_lora(lora_scale=settings.lora_scale)
        pipeline.unload_lora_weights()


def _load_lora(pipeline: Any, ref: ModelRef, settings: Any) -> None:
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
