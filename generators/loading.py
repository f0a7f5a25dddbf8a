"""Open a generator from a folder, the hub or random weights, or identify it without opening it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from vhsbench.generators.checks import (
    as_device,
    check_memory,
    check_resolution,
    check_steps,
    free_bytes,
    needed_bytes,
)
from vhsbench.generators.hub import download, resolve
from vhsbench.generators.lora import find_lora, merge_lora
from vhsbench.generators.nano import WEIGHTS
from vhsbench.generators.options import Options
from vhsbench.generators.pipeline import StagedPipeline
from vhsbench.generators.protocol import GeneratorError
from vhsbench.generators.random_weights import CONFIGS, build
from vhsbench.generators.specs import SPECS, GeneratorSpec
from vhsbench.harness.common.digests import file_digest
from vhsbench.harness.common.files import ReadError, read_errors_as
from vhsbench.harness.common.models import (
    check_folder,
    check_model,
    folder_sha256,
    model_files,
    no_code,
    plain_name,
    reason,
)
from vhsbench.harness.common.registry import Factory
from vhsbench.harness.common.text import read_json_object

Family = TypeVar("Family", bound=StagedPipeline)

Files = dict[str, list[Path]]

_INDEX = "model_index.json"
_LIBRARIES = (None, "diffusers", "transformers")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def factory(name: str, family: type[Family]) -> Factory[Family]:
    """Make the registry's entry of a generator, whose options are the fields of `Options`."""
    spec = SPECS[name]
    return Factory(Options, partial(open_generator, family, spec), partial(identity, spec))


def open_generator(family: type[Family], spec: GeneratorSpec, options: Options) -> Family:
    """Load the generator of `spec`. No code from a model's folder runs, and all weights must be finite.

    Raises GeneratorError with a sentence for the user.
    """
    lora = None if options.lora is None else find_lora(spec.name, options.lora)
    place, text_place = as_device(options.device), as_device(options.text_device)
    settings = options.settings(spec)
    check_steps(spec, settings.steps)
    if weights_folder(spec, options.weights) is None:
        check_resolution(spec.name, settings.resolution, spec.resolution_multiple, spec.max_resolution)
        free = free_bytes(place)
        if free is not None:
            check_memory(spec.name, needed_bytes(spec, settings.dtype.itemsize, text_place == place), free)
    loaded = _load(spec, options, settings.dtype, place, text_place)
    source = loaded.source
    applied: dict[str, int] = {}
    if lora is not None:
        applied = merge_lora(loaded.pipeline, spec.name, lora, options.lora_strength)
        source += f" with LoRA {options.lora} at {options.lora_strength:g}"
    _check_finite(spec.name, loaded)
    return family(
        spec,
        loaded.pipeline,
        steps=settings.steps,
        resolution=settings.resolution,
        guidance_scale=settings.guidance_scale,
        source=source,
        revision=loaded.commit,
        text_device=None if text_place == place else text_place,
        lora=applied,
    )


def identity(spec: GeneratorSpec, options: Options) -> dict[str, Any]:
    """Return what decides the generator's output, without loading it; a resumed run compares it.

    Weights and LoRA are identified by their content, or by their commit on the hub. Raises GeneratorError or
    ReadError for missing weights.
    """
    weights = _weights_identity(spec, options)
    lora = _lora_identity(spec, options.lora, options.lora_strength)
    settings = options.settings(spec)
    return {
        "weights": weights,
        "lora": lora,
        **asdict(settings),
        "dtype": str(settings.dtype).removeprefix("torch."),
        "devices": [place.partition(":")[0] for place in (str(options.device), str(options.text_device))],
    }


def _weights_identity(spec: GeneratorSpec, options: Options) -> dict[str, Any]:
    if options.weights == "random":
        return {"random": options.seed, "sizes": file_digest(CONFIGS / f"{spec.name}.json")}
    folder = weights_folder(spec, options.weights)
    if folder is not None:
        return {"sha256": folder_sha256(folder)}
    hub_id, commit = hub_commit(spec, options.weights, options.revision)
    return {"hub": hub_id, "commit": commit}


def _lora_identity(spec: GeneratorSpec, lora: str | Path | None, strength: float) -> dict[str, Any] | None:
    return None if lora is None else {"sha256": file_digest(find_lora(spec.name, lora)), "strength": strength}


@dataclass(frozen=True)
class _Loaded:
    """A pipeline, its source in words for the user, its commit, and the weight files of each component."""

    pipeline: Any
    source: str
    commit: str = ""
    files: Files = field(default_factory=dict)


def _load(
    spec: GeneratorSpec, options: Options, dtype: torch.dtype, place: torch.device, text_place: torch.device
) -> _Loaded:
    """Load the pipeline in `dtype` and put it on its devices."""
    if options.weights == "random":
        if spec.hub_id is None:
            raise GeneratorError(f"{spec.name}: its weights are bundled; leave weights='random' out.")
        return _Loaded(build(spec.name, place, dtype, options.seed, text_place), "random weights")
    if place.type == "meta":
        raise GeneratorError(f"{spec.name}: device 'meta' holds no weights; say weights='random' with it.")
    home, source, commit = _find(spec, options.weights, options.revision)
    pipeline, files = load_pipeline(home, spec.pipeline, dtype)
    _place(pipeline, place, text_place)
    return _Loaded(pipeline, source, commit, files)


def load_pipeline(folder: Path, class_name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Files]:
    """Load the pipeline saved in `folder`; also return the weight files of each component.

    Reads safetensors only, and never asks a hub. Raises GeneratorError.
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
    """Check and return the weight files of each component. Raises ReadError, also for a component that is code."""
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


def _check_finite(name: str, loaded: _Loaded) -> None:
    """Refuse weights that are not finite after loading and merging. Raises GeneratorError with file and key."""
    with read_errors_as(GeneratorError):
        for part, found in loaded.files.items():
            module = getattr(loaded.pipeline, part, None)
            if isinstance(module, torch.nn.Module):
                check_model(module, found, f"{name}, {part}")


def _find(spec: GeneratorSpec, weights: str | Path | None, revision: str | None) -> tuple[Path, str, str]:
    """Return the pipeline's folder, its source in words for the user, and its commit."""
    folder = weights_folder(spec, weights)
    if folder is not None:
        return folder, "bundled" if folder == WEIGHTS else str(folder), ""
    hub_id, commit = hub_commit(spec, weights, revision)
    return download(hub_id, commit, spec.pipeline), f"{hub_id}@{commit}", commit


def weights_folder(spec: GeneratorSpec, weights: str | Path | None) -> Path | None:
    """Return the pipeline folder that `weights` names, or the bundled one; None for random weights or a hub id."""
    if weights is None and spec.hub_id is None:
        return WEIGHTS
    return Path(weights) if weights and weights != "random" and Path(weights).is_dir() else None


def hub_commit(spec: GeneratorSpec, weights: str | Path | None, revision: str | None) -> tuple[str, str]:
    """Return the hub id (from `weights` or the spec) and the current commit of its revision. Raises GeneratorError."""
    hub_id = str(weights or spec.hub_id)
    if not _HUB_ID.fullmatch(hub_id):
        raise GeneratorError(
            f"{spec.name}: weights '{hub_id}' is no folder here and no hub id (owner/name); or say 'random'."
        )
    return hub_id, resolve(hub_id, revision or (spec.revision if hub_id == spec.hub_id else "main"))


def _from_pretrained(class_name: str, folder: Path, dtype: torch.dtype) -> Any:
    import diffusers
    from diffusers.utils import logging

    # diffusers warns if a folder's tokenizer is a plain fast tokenizer and not the model's own class
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
