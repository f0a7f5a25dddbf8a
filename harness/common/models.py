"""Check foreign models: which files they are read from, no code among them, and weights that are finite floats.

Files named in a folder are only read from that folder, so that its digest covers everything that makes a model.
All checks raise ReadError, with file and key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vhsbench.harness.common.digests import hashed_once
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.model_folders import check_files
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.common.tensors import open_tensors
from vhsbench.harness.common.text import read_json_object
from vhsbench.harness.common.torch_files import read_state

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_FLOATS = ("BF16", "F16", "F32", "F64")  # the same, as safetensors names them
NOT_FINITE = "holds NaN or infinite numbers"
_WANTED = "but weights are bfloat16, float16, float32 or float64"
# positions and counters, which no loader turns into weights
_INDICES = ("position_ids", "num_batches_tracked", "relative_position_index")
_SAFE = ("model.safetensors", "diffusion_pytorch_model.safetensors")
_PICKLED = ("pytorch_model.bin",)
_INDEX = ".index.json"
_READ = (".safetensors", ".json", ".jinja", ".txt", ".model")
_CODE = "trust_remote_code"  # in every message of transformers and diffusers that asks for consent
_NEEDS_CODE = "it needs code of its own, and code that comes with a model is never run"


@contextmanager
def no_code() -> Iterator[None]:
    """Let transformers refuse a folder's own code if a library calls it without saying whether code is trusted.

    By default it would ask on the terminal for 15 seconds; with 0 seconds it raises.
    """
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def reason(error: BaseException) -> str:
    """Say why a library could not load something: the error's first line without a period, or that it needs code."""
    wants_code = _CODE in str(error) or _NEEDS_CODE in str(error)
    return _NEEDS_CODE if wants_code else first_line(error)


def plain_name(name: object, where: str) -> str:
    """Return `name` if it names a file directly in its folder; `where` says who names it. Raises ReadError."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        raise ReadError(f"{where} names {name!r}, but only files directly in the same folder are read.")
    return name


def check_folder(folder: Path) -> None:
    """Refuse links out of a folder, and files that no library should open; see `check_files`."""
    check_links(folder)
    check_files(folder)


def check_links(folder: Path) -> None:
    """Refuse links out of a folder; those of a hub snapshot lead to the blobs of the same cache."""
    roots = [folder.resolve(), *_blobs(folder)]
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not any(path.resolve().is_relative_to(root) for root in roots):
                raise ReadError(f"{path} is a link out of its folder; put what it points to in its place.")


def _blobs(folder: Path) -> list[Path]:
    """Return where the links of a hub snapshot (<repository>/snapshots/<commit>/...) may lead."""
    for path in (folder.absolute(), *folder.absolute().parents):
        if path.parent.name == "snapshots":
            blobs = path.parent.parent / "blobs"
            return [blobs.resolve()] if blobs.is_dir() and not blobs.is_symlink() else []
    return []


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a model's weights: those in the index of `name`, or without one the file `name`, if any.

    Refuses an index that lists files outside the folder, or missing ones.
    """
    index = folder / (name + _INDEX)
    if not index.is_file():
        return [folder / name] if (folder / name).is_file() else []
    shards = read_json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ReadError(f"{index} has no 'weight_map' of keys to files.")
    names = sorted({plain_name(shard, f"{index}: '{key}'") for key, shard in shards.items()})
    for shard in names:
        if not (folder / shard).is_file():
            raise ReadError(f"{folder} has no {shard}, which {index.name} names.")
    return [folder / shard for shard in names]


def model_files(folder: Path, pickles: bool = False) -> list[Path]:
    """Return the weight files that transformers or diffusers will read in a folder, with their types checked.

    Safetensors; if there are none and `pickles` is true, torch's .bin files. Refuses links out of the folder,
    and a PEFT adapter, whose configuration can name any base model.
    """
    check_folder(folder)
    if (folder / "adapter_config.json").exists():
        raise ReadError(f"{folder} holds an adapter (adapter_config.json); merge it into its model first.")
    check_tokenizer(folder)
    files: list[Path] = []
    for names in (_SAFE, _PICKLED) if pickles else (_SAFE,):
        for name in () if files else names:
            # libraries differ in which of the two they prefer
            single = [folder / name] if (folder / name).is_file() else []
            files += [*dict.fromkeys([*weight_files(folder, name), *single])]
    for file in files:
        check_types(file)
    return files


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer_config.json that names files elsewhere."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return
    config = read_json_object(file)
    names = config.get("fast_tokenizer_files") or []
    if not isinstance(names, list):
        raise ReadError(f"{file}: 'fast_tokenizer_files' is {names!r}, not a list of files.")
    for name in [*names, *([config["gguf_file"]] if config.get("gguf_file") else [])]:
        plain_name(name, str(file))


def check_types(file: Path) -> None:
    """Refuse a weight file with a tensor that does not hold floating-point numbers; does not read values."""
    for key, dtype in _types(file):
        if not _is_index(key):
            check_type(dtype, f"{file}: '{key}'")


def _types(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".safetensors":
        with open_tensors(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118
                yield key, tensors.get_slice(key).get_dtype()
        return
    for key, tensor in read_state(file).tensors.items():
        yield key, tensor.dtype


def check_type(dtype: object, name: str) -> None:
    """Refuse a type (torch's, or a name in safetensors) that is not floating-point."""
    if dtype not in FLOATS and dtype not in _FLOATS:
        raise ReadError(f"{name} holds {str(dtype).removeprefix('torch.')}, {_WANTED}.")


def _is_index(key: str) -> bool:
    return key.rpartition(".")[2] in _INDICES


def check_weights(tensors: Mapping[str, torch.Tensor], file: Path | None = None) -> None:
    """Refuse tensors, read from `file`, that do not hold floating-point numbers or are not finite."""
    where = f"{file}: " if file else ""
    for key, tensor in tensors.items():
        if not _is_index(key):
            check_type(tensor.dtype, f"{where}'{key}'")
    if bad := first_not_finite(tensors):
        raise ReadError(f"{where}'{bad}' {NOT_FINITE}.")


def check_model(module: torch.nn.Module, files: Iterable[Path], name: str) -> None:
    """Refuse a model with weights that are not finite, by file and key; it was read from `files`.

    Takes one pass over the weights on their device, without a copy. The files are read again only if that fails.
    """
    bad = first_not_finite(module.state_dict())
    if bad is None:
        return
    for file in files:
        for key, tensor in _tensors(file):
            if first_not_finite({key: tensor}):
                raise ReadError(f"{file}: '{key}' {NOT_FINITE}.")
    dtype = str(module.state_dict()[bad].dtype).removeprefix("torch.")
    raise ReadError(f"{name}: '{bad}' is not finite as {dtype}; load it as bfloat16 or float32.")


def load_model(
    model_class: Any, folder: Path, device: torch.device, dtype: torch.dtype, kind: str, pickles: bool = False
) -> Any:
    """Load a folder by a class of transformers, ready to be used; `kind` names in errors what it should hold.

    No code of the folder's runs. Raises ReadError, also for a missing weight, which transformers would make up.
    """
    files = model_files(folder, pickles)
    try:
        with no_code():
            model, found = model_class.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # a damaged configuration can raise anything
        raise ReadError(f"{folder} holds no {kind} that can be read: {reason(error)}.") from error
    if missing := sorted(found["missing_keys"]):
        raise ReadError(
            f"{folder} holds no {kind} that can be read: its weights lack the key '{missing[0]}'."
        )
    model = model.to(device).eval().requires_grad_(False)
    check_model(model, files, str(folder))
    return model


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if file.suffix != ".safetensors":
        yield from read_state(file).tensors.items()
        return
    with open_tensors(file) as tensors:
        for key in tensors.keys():  # noqa: SIM118
            yield key, tensors.get_tensor(key)


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the first key whose floating-point tensor holds NaN or an infinity.

    Minimum and maximum show both: one pass, no copy, and one wait per device.
    """
    extremes: dict[torch.device, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            ends = torch.stack(torch.aminmax(tensor.detach())).double()
            extremes.setdefault(tensor.device, {})[key] = ends
    for found in extremes.values():
        finite = torch.isfinite(torch.stack([*found.values()])).all(1).tolist()
        if not all(finite):
            return [*found][finite.index(False)]
    return None


def files_read(folder: Path, pickles: bool = False) -> list[Path]:
    """List the files of a model's folder that may be read: weights, configurations, tokenizers, chat templates."""
    files = [f for f in sorted(folder.rglob("*")) if f.suffix in _READ and f.is_file()]
    return files + [f for f in model_files(folder, pickles) if f not in files] if pickles else files


def folder_sha256(folder: Path, also: Iterable[Path] = ()) -> str:
    """Hash `files_read` of a folder, by name, and the files `also`, by SHA-256: the identity of a model."""
    files = {f: f.relative_to(folder).as_posix() for f in files_read(folder)}
    files |= {f: f.name for f in also if f not in files}

    def hashed() -> str:
        digest = hashlib.sha256()
        for file, name in files.items():
            digest.update(name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    return hashed_once(f"folder {folder}", list(files), hashed)
