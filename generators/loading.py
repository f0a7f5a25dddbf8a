"""A generator from a folder, the hub, or random weights: options checked first, then loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from vhsbench.generators.checks import (
    as_device,
    check_dtype,
    check_memory,
    check_resolution,
    check_steps,
    free_bytes,
    needed_bytes,
)
from vhsbench.generators.hub import download, resolve
from vhsbench.generators.lora import find_lora, merge_lora
from vhsbench.generators.nano import WEIGHTS
from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.common.files import ReadError, read_errors_as
from vhsbench.harness.common.models import check_folder, check_model, model_files, no_code, plain_name, reason
from vhsbench.harness.common.text import read_json_object

if TYPE_CHECKING:
    from vhsbench.generators.pipeline import StagedPipeline
    from vhsbench.generators.specs import GeneratorSpec

Family = TypeVar("Family", bound="StagedPipeline")

Files = dict[str, list[Path]]

_INDEX = "model_index.json"
_LIBRARIES = (None, "diffusers", "transformers")
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
    folder or safetensors file of LoRA weights, or "bundled"; it is merged into the weights of every component
    that it is for, so that it costs nothing. No code of a folder is run; weights are finite floats.
    Raises GeneratorError with a sentence for the user.
    """
    lora_path = None if lora is None else find_lora(spec.name, lora)
    place, text_place = as_device(device), as_device(text_encoder_device or device)
    numbers = as_dtype(dtype or spec.dtype)
    steps = spec.steps if steps is None else steps
    resolution = spec.resolution if resolution is None else resolution
    check_steps(spec, steps)
    folder = weights_folder(spec, weights)
    if folder is None:
        check_resolution(spec.name, resolution, spec.resolution_multiple, spec.max_resolution)
        free = free_bytes(place)
        if free is not None:
            check_memory(spec.name, needed_bytes(spec, numbers.itemsize, text_place == place), free)
    if weights == "random":
        pipeline, source, commit = _random(spec, place, numbers, seed, text_place), "random weights", ""
        files: Files = {}
    elif place.type == "meta":
        raise GeneratorError(f"{spec.name}: device 'meta' holds no weights; say weights='random' with it.")
    else:
        home, source, commit = _find(spec, weights, folder, revision)
        pipeline, files = load_pipeline(home, spec.pipeline, numbers)
        _place(pipeline, place, text_place)
    applied: dict[str, int] = {}
    if lora_path is not None:
        applied = merge_lora(pipeline, spec.name, lora_path, lora_strength)
        source += f" with LoRA {lora} at {lora_strength:g}"
    _check_finite(spec.name, pipeline, files)
    return family(
        spec,
        pipeline,
        steps=steps,
        resolution=resolution,
        guidance_scale=spec.guidance_scale if guidance_scale is None else guidance_scale,
        source=source,
        revision=commit,
        text_device=None if text_place == place else text_place,
        lora=applied,
    )


def _random(
    spec: GeneratorSpec, place: torch.device, dtype: torch.dtype, seed: int, text_place: torch.device
) -> Any:
    if spec.hub_id is None:
        raise GeneratorError(f"{spec.name}: its weights are bundled; leave weights='random' out.")
    from vhsbench.generators.random_weights import build

    return build(spec.name, place, dtype, seed, text_place)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of that name. Raises GeneratorError for another."""
    if isinstance(dtype, torch.dtype):
        return dtype
    check_dtype(dtype)
    found: torch.dtype = getattr(torch, dtype)
    return found


def load_pipeline(folder: Path, class_name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Files]:
    """The pipeline saved in `folder`, and the files of each component's weights.

    From safetensors only, without reaching for a hub. Raises GeneratorError.
    """
    if not (folder / _INDEX).is_file():
        raise GeneratorError(f"'{folder}' is not a pipeline folder: it has no {_INDEX}.")
    with read_errors_as(GeneratorError):
        index = read_json_object(folder / _INDEX)
        found = index.get("_class_name")
        if found != class_name:
            raise GeneratorError(f"'{folder}' holds a {found}, but a {class_name} is needed.")
        files = _files(folder, index)
    try:
        return _from_pretrained(class_name, folder, dtype), files
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged configuration can raise anything
        raise GeneratorError(f"'{folder}' cannot be loaded as a {class_name}: {reason(error)}.") from error


def _files(folder: Path, index: Mapping[str, Any]) -> Files:
    """The files of each component's weights, checked. Raises ReadError, also for a component that is code."""
    check_folder(folder)
    files: Files = {}
    for part, named in index.items():
        if not isinstance(named, list):
            continue
        if not named or named[0] not in _LIBRARIES:
            raise ReadError(
                f"{folder / _INDEX}: '{part}' is {named}, a class of neither diffusers nor transformers, "
                "and code that comes with a model is never run."
            )
        where = folder / plain_name(part, str(folder / _INDEX))
        files[part] = model_files(where if where.is_dir() else folder)
    return files


def _check_finite(name: str, pipeline: Any, files: Files) -> None:
    """Look at what was loaded and merged. Raises GeneratorError with file and key."""
    with read_errors_as(GeneratorError):
        for part, found in files.items():
            module = getattr(pipeline, part, None)
            if isinstance(module, torch.nn.Module):
                check_model(module, found, f"{name}, {part}")


def _find(
    spec: GeneratorSpec, weights: str | Path | None, folder: Path | None, revision: str | None
) -> tuple[Path, str, str]:
    """The pipeline's folder, its source for the user to read, and its revision."""
    if folder is not None:
        return folder, "bundled" if folder == WEIGHTS else str(folder), ""
    hub_id, commit = hub_commit(spec, weights, revision)
    return download(hub_id, commit, spec.pipeline), f"{hub_id}@{commit}", commit


def weights_folder(spec: GeneratorSpec, weights: str | Path | None) -> Path | None:
    """The pipeline folder that `weights` is, or the bundled one; None for what is random or on the hub."""
    if weights is None and spec.hub_id is None:
        return WEIGHTS
    return Path(weights) if weights and weights != "random" and Path(weights).is_dir() else None


def hub_commit(spec: GeneratorSpec, weights: str | Path | None, revision: str | None) -> tuple[str, str]:
    """The hub id that `weights` is, or the spec's own, and the commit that its revision is now. Raises GeneratorError."""
    hub_id = str(weights or spec.hub_id)
    if not _HUB_ID.fullmatch(hub_id):
        raise GeneratorError(
            f"{spec.name}: weights '{hub_id}' is no folder here and no hub id (owner/name); or say 'random'."
        )
    return hub_id, resolve(hub_id, revision or (spec.revision if hub_id == spec.hub_id else "main"))


def _from_pretrained(class_name: str, folder: Path, dtype: torch.dtype) -> Any:
    import diffusers
    from diffusers.utils import logging

    # a folder's tokenizer may be a plain fast tokenizer; diffusers warns that it is not the model's class
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_code():
            pipeline = getattr(diffusers, class_name).from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, dtype=dtype, local_files_only=True
            )
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
