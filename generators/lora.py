"""Find LoRA weights, check them key by key against the pipeline, and merge them into it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vhsbench.generators.nano import LORA
from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.models import check_weights, reason
from vhsbench.harness.common.tensors import open_tensors
from vhsbench.harness.common.text import parse_json

Tensors = dict[str, torch.Tensor]

FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
ADAPTER = "lora"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_KEY = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector(?:\.weight)?)")
_UP, _DOWN = "lora_B.weight", "lora_A.weight"
_METADATA = "lora_adapter_metadata"
_FOREIGN = ("megatron_config", "layer_replication")  # these import a module by name, and rebuild the model


def find_lora(name: str, lora: str | Path) -> Path:
    """Find the safetensors file of a LoRA: a file, the only one in a folder, or nano's bundled one.

    Raises GeneratorError if there is none, if there are several, or for a pickle.
    """
    if str(lora) == "bundled":
        if name != "nano":
            raise GeneratorError(f"{name}: no LoRA is bundled for it; give lora a folder.")
        return LORA / FILE
    path = Path(lora)
    if not path.exists():
        raise GeneratorError(f"{name}: there are no LoRA weights at '{lora}'.")
    if path.is_file():
        if path.suffix != ".safetensors":
            kind = "a pickle" if path.suffix in _PICKLES else "no .safetensors file"
            raise GeneratorError(f"{name}: the LoRA '{lora}' is {kind}; only safetensors are read.")
        return path
    files = sorted(path.glob("*.safetensors"))
    usual = [f for f in files if f.name == FILE] or files
    if len(usual) == 1:
        return usual[0]
    said = "holds several .safetensors files, give one of them" if files else "holds no .safetensors file"
    raise GeneratorError(f"{name}: the LoRA at '{lora}' does not fit: the folder {said}.")


def merge_lora(pipeline: Any, name: str, file: Path, strength: float) -> dict[str, int]:
    """Merge LoRA weights into a pipeline's at `strength` (0: none, 1: as trained), so that they cost nothing.

    Returns the number of keys applied, by component. Raises GeneratorError unless every key of `file` fits.
    """
    if not hasattr(pipeline, "load_lora_weights"):
        raise GeneratorError(f"{name}: diffusers has no LoRA for {type(pipeline).__name__}; leave lora out.")
    try:
        wanted = _checked(pipeline, file)
        with _library():
            pipeline.load_lora_weights(
                file.parent,
                weight_name=file.name,
                adapter_name=ADAPTER,
                local_files_only=True,
                use_safetensors=True,
            )
        _all_applied(pipeline, wanted)
    except ReadError as error:
        raise GeneratorError(f"{name}: the LoRA at '{file}' does not fit: {reason(error)}.") from error
    pipeline.set_adapters([ADAPTER], adapter_weights=[strength])
    pipeline.fuse_lora(components=list(wanted))  # by default FLUX's text encoder is left out
    pipeline.unload_lora_weights()
    return {part: len(keys) for part, keys in wanted.items()}


@contextmanager
def _library() -> Iterator[None]:
    """Turn a library's error about a damaged or unsuitable file into a ReadError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any type
        raise ReadError(reason(error)) from error


def _checked(pipeline: Any, file: Path) -> dict[str, set[str]]:
    """Return the keys of a LoRA by component, as peft names them. Raises ReadError unless each fits a layer."""
    tensors = _read(file)
    converted, unmatched = _convert(pipeline, tensors)
    wanted: dict[str, set[str]] = {}
    for part, given in _by_component(converted).items():
        component = getattr(pipeline, part, None) if part in pipeline._lora_loadable_modules else None
        if component is None:
            unmatched += [f"{part}.{key}" if part else key for key in given]
            continue
        named = _as_peft(part, component, given)
        modules = dict(component.named_modules())
        misses = [key for key in named if not _is_layer(key, modules)]
        unmatched += [f"{part}.{key}" for key in misses]
        if not misses:
            _check_shapes(part, modules, named)
            wanted[part] = set(named)
    if unmatched:
        few = ", ".join(f"'{key}'" for key in unmatched[:3])
        raise ReadError(f"{len(unmatched)} of its {len(tensors)} keys match nothing in the generator: {few}.")
    if not wanted:
        raise ReadError("it holds no tensors.")
    return wanted


def _read(file: Path) -> Tensors:
    with open_tensors(file) as content:
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        written = content.metadata() or {}
    metadata = parse_json(written.get(_METADATA, "{}"), _METADATA)
    check_weights(tensors)
    for key, value in metadata.items() if isinstance(metadata, dict) else ():
        if value and key.rpartition(".")[2] in _FOREIGN:
            raise ReadError(f"its metadata has '{key}', which is not supported.")
    return tensors


def _convert(pipeline: Any, tensors: Tensors) -> tuple[Tensors, list[str]]:
    """Convert a LoRA to diffusers' keys, whichever tool wrote it; also return the file's keys that were not used."""
    read: set[str] = set()
    with _library():
        converted: Tensors = pipeline.lora_state_dict(
            {key: _Traced.of(tensor, key, read) for key, tensor in tensors.items()}
        )
    used = read.union(*(tensor.sources for tensor in converted.values() if isinstance(tensor, _Traced)))
    # FLUX's loader sets aside the scales that stand beside diffusers' own keys
    layers = {key.partition(".lora")[0] for key in converted}
    return converted, [k for k in tensors if k not in used and k.removesuffix(".alpha") not in layers]


class _Traced(torch.Tensor):
    """A tensor that remembers the keys it was made from: diffusers' conversions drop some silently."""

    sources: frozenset[str]
    read: set[str]  # keys whose value went into a Python number

    @staticmethod
    def of(tensor: torch.Tensor, key: str, read: set[str]) -> _Traced:
        traced = tensor.as_subclass(_Traced)
        traced.sources, traced.read = frozenset([key]), read
        return traced

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        inputs = [t for t in _tensors((args, [*(kwargs or {}).values()])) if hasattr(t, "sources")]
        sources = frozenset().union(*(t.sources for t in inputs))
        for tensor in _tensors(result):
            tensor.sources, tensor.read = sources, inputs[0].read
        if func is torch.Tensor.item:
            inputs[0].read.update(sources)
        return result


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, _Traced):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _is_layer(key: str, modules: Mapping[str, Any]) -> bool:
    match = _KEY.fullmatch(key)
    return match is not None and getattr(modules.get(match[1]), "weight", None) is not None


def _by_component(converted: Tensors) -> dict[str, Tensors]:
    parts: dict[str, Tensors] = {}
    for key, tensor in converted.items():
        part, dot, rest = key.partition(".")
        parts.setdefault(part if dot else "", {})[rest if dot else key] = tensor
    return parts


def _as_peft(part: str, component: torch.nn.Module, given: Tensors) -> Tensors:
    """Convert the keys of one component to those that diffusers gives peft, from any of its older formats."""
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    if part.startswith("text_encoder"):
        with _library():
            named: Tensors = convert_state_dict_to_peft(convert_state_dict_to_diffusers(given))
        flat = not hasattr(component, "text_model")
        return {k.removeprefix("text_model.") if flat else k: v for k, v in named.items()}
    old = "lora_A" not in next(iter(given))
    return dict(convert_unet_state_dict_to_peft(given)) if old else given


def _check_shapes(part: str, modules: Mapping[str, Any], named: Tensors) -> None:
    """Check that down [r, in, ...] and up [out, r, ...] of each layer fit its weight [out, in, ...]. Raises ReadError."""
    for key, tensor in named.items():
        module, kind = key.rsplit(".lora_", 1)
        down, up = (named.get(f"{module}.{half}") for half in (_DOWN, _UP))
        if down is None or up is None:
            raise ReadError(f"'{part}.{key}' has no {_UP if up is None else _DOWN} beside it.")
        weight = modules[module].weight
        wanted = {
            "A.weight": [len(down), *weight.shape[1:]],
            "B.weight": [len(weight), len(down), *(1 for _ in weight.shape[2:])],
        }.get(kind, [len(weight)])
        if list(tensor.shape) != wanted:
            raise ReadError(f"'{part}.{key}' has shape {list(tensor.shape)}, but its layer needs {wanted}.")


def _all_applied(pipeline: Any, wanted: Mapping[str, set[str]]) -> None:
    """Check that peft holds every key after loading. Raises ReadError for one that it left out."""
    from peft import get_peft_model_state_dict

    for part, keys in wanted.items():
        applied = get_peft_model_state_dict(getattr(pipeline, part), adapter_name=ADAPTER)
        if left := sorted(keys - set(applied)):
            raise ReadError(f"{len(left)} of its keys were not applied: {', '.join(left[:3])}.")
