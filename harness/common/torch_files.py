"""Read torch files (.pth, .pt, .bin): their tensors, and nothing that could run.

Anything but tensors and plain values in a training's checkpoint (histories, configurations, NumPy arrays)
is replaced by an inert object: no class that a file names is imported, created or called.
"""

from __future__ import annotations

import builtins
import pickle
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vhsbench.harness.common.files import ReadError, check_regular
from vhsbench.harness.common.shown import first_line, printable

if TYPE_CHECKING:
    import torch

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # how torch.save's files begin: since 1.6, and before
_PARTS = ("state_dict", "meta")  # of a checkpoint that holds weights alone
# modules of Python's whose objects trainings save; what else of Python's a file names can only be meant to run
_DATA = ("argparse", "collections", "datetime", "pathlib", "uuid")


class _Inert:
    """Stands in for an object that is not a tensor: accepts anything and does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


class State(NamedTuple):
    """Tensors by name, and the names of everything beside them, such as 'optimizer'."""

    tensors: dict[str, torch.Tensor]
    others: list[str]


def read(file: Path, device: Any = "cpu") -> Any:
    """Read what torch.save wrote: plain values and tensors on `device`, and inert objects for everything else.

    On the CPU the tensors are memory-mapped: they take memory only as they are used, and stay tied to the file.
    Raises ReadError for a missing, irregular, damaged or compressed file, and one that asks for code.
    """
    import torch

    check_regular(file)
    with file.open("rb") as stream:
        head = stream.read(len(_ZIP))
    if head != _ZIP and not head.startswith(_PICKLE):
        raise _refusal(file, "torch.save writes no such file")
    try:
        # before torch 1.6 a file does not list the names in it: only plain values and tensors are read
        inert = _stand_ins(file) if head == _ZIP else []
        with torch.serialization.safe_globals(inert):
            return torch.load(file, map_location=device, mmap=head == _ZIP, weights_only=True)
    except ReadError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _refusal(file, _why(error)) from error


def read_state(file: Path) -> State:
    """Read the tensors of a file, or of its 'state_dict'. Raises ReadError as `read`, and for tensors that are not plain."""
    import torch

    content = read(file)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ReadError(f"{file}: holds no state_dict of tensors.")
    for name, value in state.items():
        shown = printable(str(name))
        if not isinstance(name, str) or shown != name:
            raise ReadError(f"{file}: holds no state_dict of tensors: '{shown}' is not the name of one.")
        if not isinstance(value, torch.Tensor):
            kind = printable(type(value).__qualname__)
            raise ReadError(f"{file}: holds no state_dict of tensors: '{name}' is of type {kind}.")
        check_plain(value, f"{file}: '{name}'")
    others = [] if state is content else [printable(str(part)) for part in content if part not in _PARTS]
    return State(state, others)


def check_plain(tensor: torch.Tensor, name: str) -> None:
    """Refuse a tensor that is sparse, nested, quantised or without data, or larger than what was read. Raises ReadError."""
    import torch

    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_quantized:
        raise ReadError(f"{name} is not a dense tensor.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ReadError(f"{name} is {tuple(tensor.shape)}, more numbers than the file holds for it.")


def _stand_ins(file: Path) -> list[Any]:
    """Make an inert class for each global that a file names and torch does not allow. Raises ReadError for code."""
    import torch

    with zipfile.ZipFile(file) as archive:  # uncompressed, so it cannot take more memory than it has bytes
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _refusal(file, "it is compressed, which torch.save never does")
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    for name in sorted(names):
        if _is_code(name):
            raise _refusal(
                file, f"it asks for '{printable(name)}' of Python's library; nothing of it was run"
            )
    return [(type(name, (_Inert,), {}), name) for name in names]


def _is_code(name: str) -> bool:
    """Tell whether the name is of Python's library, in Python 2 or 3, and not data: eval, os.system."""
    module, _, rest = name.partition(".")
    if module == "builtins":  # a pickle names the methods of a class by getattr, as in mmengine's histories
        return rest != "getattr" and not isinstance(getattr(builtins, rest, None), type)
    return module not in _DATA and (module in sys.stdlib_module_names or module in IMPORT_MAPPING)


def _refusal(file: Path, why: str) -> ReadError:
    return ReadError(f"{file}: holds no plain tensors ({why}).")


def _why(error: Exception) -> str:
    """Find the reason within the advice that torch wraps around it, as part of a sentence."""
    unpickled = isinstance(error, pickle.UnpicklingError)
    cause = error.__context__ if unpickled and error.__context__ else error
    said = first_line(cause).partition(". Please ")[0]
    return f"{said}; save its state_dict alone" if unpickled else said
