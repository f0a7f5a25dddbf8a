"""A generator from a folder, the hub, or random weights: options checked first, then loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError

from generators.checks import as_device, check_memory, check_resolution, check_steps, free_bytes, needed_bytes
from generators.hub import reachable, refusal, resolve
from generators.nano import LORA, WEIGHTS
from generators.protocol import GeneratorError
from generators.registry import nearest, one_line

if TYPE_CHECKING:
    from generators.pipeline import StagedPipeline
    from generators.specs import GeneratorSpec

Family = TypeVar("Family", bound="StagedPipeline")

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_generator(
    family: type[Family],
    spec: GeneratorSpec,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    steps: int | None = None,
    resolution: int | None = None,
    guidance_scale: float | None = None,
    revision: str | None = None,
    lora: str | Path | None = None,
    lora_strength: float = 1.0,
    text_encoder_device: str | None = None,
    seed: int = 0,
) -> Family:
    """The generator of `spec`; an option that is None has the spec's value.

    weights: None for the family's own, "random" (of the true architecture, drawn from `seed`), a
    pipeline folder, or a hub id, whose `revision` is a branch, tag or commit. device "meta" needs
    weights="random". text_encoder_device keeps the text encoders elsewhere, as on "cpu". lora is a
    folder or file of LoRA weights, or "bundled"; it is merged into the weights, so that it costs nothing.
    Raises GeneratorError with a sentence for the user.
    """
    lora_path = None if lora is None else find_lora(spec.name, lora)
    place, text_place = as_device(device), as_device(text_encoder_device or device)
    numbers = as_dtype(dtype or spec.dtype)
    steps = spec.steps if steps is None else steps
    resolution = spec.resolution if resolution is None else resolution
    check_steps(spec, steps)
    if weights is None and spec.hub_id is None:
        weights = WEIGHTS
    folder = Path(weights) if weights and weights != "random" and Path(weights).is_dir() else None
    if folder is None:
        check_resolution(spec.name, resolution, spec.resolution_multiple, spec.max_resolution)
        free = free_bytes(place)
        if free is not None:
            check_memory(spec.name, needed_bytes(spec, numbers.itemsize, text_place == place), free)
    if weights == "random":
        pipeline, source, commit = _random(spec, place, numbers, seed, text_place), "random weights", ""
    elif place.type == "meta":
        raise GeneratorError(f"{spec.name}: device 'meta' holds no weights; say weights='random' with it.")
    else:
        pipeline, source, commit = _load(spec, weights, folder, revision, numbers)
        _place(pipeline, place, text_place)
    if lora_path is not None:
        add_lora(pipeline, spec.name, lora_path, lora_strength)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        source += f" with LoRA {lora} at {lora_strength:g}"
    return family(
        spec,
        pipeline,
        steps=steps,
        resolution=resolution,
        guidance_scale=spec.guidance_scale if guidance_scale is None else guidance_scale,
        source=source,
        revision=commit,
        text_device=None if text_place == place else text_place,
    )


def _random(
    spec: GeneratorSpec, place: torch.device, dtype: torch.dtype, seed: int, text_place: torch.device
) -> Any:
    if spec.hub_id is None:
        raise GeneratorError(f"{spec.name}: its weights are bundled; leave weights='random' out.")
    from generators.random_weights import build

    return build(spec.name, place, dtype, seed, text_place)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of that name. Raises GeneratorError for another."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise GeneratorError(f"unknown dtype '{dtype}'; {nearest(dtype, list(_DTYPES))}")
    return _DTYPES[dtype]


def load_pipeline(folder: Path, class_name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline saved in `folder`, from safetensors only, without reaching for a hub."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise GeneratorError(f"'{folder}' is not a pipeline folder: it has no model_index.json.")
    found = json.loads(index.read_text()).get("_class_name")
    if found != class_name:
        raise GeneratorError(f"'{folder}' holds a {found}, but a {class_name} is needed.")
    try:
        return _from_pretrained(class_name, folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GeneratorError(f"'{folder}' cannot be loaded as a {class_name}: {reason}") from error


def find_lora(name: str, lora: str | Path) -> Path:
    """Where a LoRA lies: a folder or file, or the one bundled with nano. Raises GeneratorError."""
    if str(lora) == "bundled":
        if name != "nano":
            raise GeneratorError(f"{name}: no LoRA is bundled for it; give lora a folder.")
        return LORA
    if not Path(lora).exists():
        raise GeneratorError(f"{name}: there are no LoRA weights at '{lora}'.")
    return Path(lora)


def add_lora(pipeline: Any, name: str, path: Path, strength: float) -> None:
    """Load LoRA weights saved in diffusers' format, applied at `strength` (0: none, 1: as trained)."""
    if not hasattr(pipeline, "load_lora_weights"):
        raise GeneratorError(f"{name}: diffusers has no LoRA for {type(pipeline).__name__}; leave lora out.")
    where = {"weight_name": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    try:
        pipeline.load_lora_weights(
            folder, adapter_name="lora", local_files_only=True, use_safetensors=True, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GeneratorError(f"{name}: the LoRA at '{path}' does not fit: {reason}") from error
    pipeline.set_adapters(["lora"], adapter_weights=[strength])


def _load(
    spec: GeneratorSpec,
    weights: str | Path | None,
    folder: Path | None,
    revision: str | None,
    dtype: torch.dtype,
) -> tuple[Any, str, str]:
    """The pipeline, its source for the user to read, and its revision."""
    if folder is not None:
        source = "bundled" if folder == WEIGHTS else str(folder)
        return load_pipeline(folder, spec.pipeline, dtype), source, ""
    hub_id = str(weights or spec.hub_id)
    if not _HUB_ID.fullmatch(hub_id):
        raise GeneratorError(
            f"{spec.name}: weights '{hub_id}' is no folder here and no hub id (owner/name); or say 'random'."
        )
    asked = revision or (spec.revision if hub_id == spec.hub_id else "main")
    commit = resolve(hub_id, asked)
    try:
        pipeline = _from_pretrained(
            spec.pipeline, hub_id, dtype=dtype, revision=commit, local_files_only=not reachable()
        )
    except (OSError, ValueError, TypeError) as error:
        unloaded = f"'{hub_id}' cannot be loaded as a {spec.pipeline}: {one_line(error)}."
        raise GeneratorError(refusal(hub_id, error, commit) or unloaded) from error
    return pipeline, f"{hub_id}@{commit}", commit


def _from_pretrained(class_name: str, where: str | Path, **options: Any) -> Any:
    import diffusers
    from diffusers.utils import logging

    # a folder's tokenizer may be a plain fast tokenizer; diffusers warns that it is not the model's class
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        pipeline = getattr(diffusers, class_name).from_pretrained(where, use_safetensors=True, **options)
    finally:
        logging.set_verbosity(verbosity)
    pipeline.set_progress_bar_config(disable=True)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False)
    return pipeline


def _place(pipeline: Any, device: torch.device, text_device: torch.device) -> None:
    for name, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            module.to(text_device if name.startswith("text_encoder") else device)
