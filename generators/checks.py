"""Check a generator's options before anything is loaded; an error is one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.settings import device_name

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.specs import GeneratorSpec


DTYPES = ("bfloat16", "float16", "float32")
LARGEST_SIDE = 16_384  # pixels
LARGEST_GUIDANCE = 1000.0


def check_options(spec: GeneratorSpec, options: Mapping[str, Any]) -> None:
    """Refuse values that no generator of the family can be built with. Raises GeneratorError; loads nothing."""
    given = {key: value for key, value in options.items() if value is not None}
    if "steps" in given:
        check_steps(spec, given["steps"])
    if "resolution" in given:
        own = "weights" in given  # may have other patches and positions
        multiple, largest = (1, None) if own else (spec.resolution_multiple, spec.max_resolution)
        check_resolution(spec.name, given["resolution"], multiple, largest)
    if "dtype" in given:
        check_dtype(given["dtype"])
    if "text_encoder_device" in given:
        device_name(given["text_encoder_device"])
    guidance = given.get("guidance_scale", 1.0)
    if (
        isinstance(guidance, bool)
        or not isinstance(guidance, (int, float))
        or not 0 <= guidance <= LARGEST_GUIDANCE
    ):
        raise GeneratorError(
            f"guidance_scale is {guidance!r}, but a number from 0 to {LARGEST_GUIDANCE:g} is needed."
        )


def check_dtype(dtype: object) -> None:
    """Refuse an unknown dtype of weights. Raises GeneratorError."""
    if dtype not in DTYPES:
        raise GeneratorError(f"unknown dtype '{dtype}'; {nearest(str(dtype), list(DTYPES))}")


def as_device(name: str | torch.device) -> torch.device:
    """Return the device of that name. Raises GeneratorError for an unknown name, or a GPU that this machine lacks."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise GeneratorError(f"unknown device '{name}'; known: cpu, cuda, cuda:N, meta.") from None
    if device.type == "cuda" and (device.index or 0) >= (gpus := torch.cuda.device_count()):
        raise GeneratorError(f"there is no device '{name}' here: torch finds {gpus} GPUs.")
    if device.type not in ("cpu", "cuda", "meta"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise GeneratorError(f"there is no device '{name}' here.") from None
    return device


def check_steps(spec: GeneratorSpec, steps: int) -> None:
    """Refuse a number of steps that the family cannot do. Raises GeneratorError."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= spec.max_steps:
        can = f"1 to {spec.max_steps} steps" if spec.max_steps > 1 else "1 step only"
        raise GeneratorError(f"steps is {steps!r}, but {spec.name} makes an image in {can}.")


def check_resolution(name: str, resolution: int, multiple: int, largest: int | None) -> None:
    """Refuse a size in pixels that the model cannot make. Raises GeneratorError.

    `multiple` is the pixels that one image token spans; `largest` is None if there is no limit.
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < multiple:
        raise GeneratorError(f"resolution is {resolution!r}, but {name} needs at least {multiple} pixels.")
    if resolution > LARGEST_SIDE:
        raise GeneratorError(
            f"resolution is {resolution}, but at most {LARGEST_SIDE} pixels a side are made."
        )
    if resolution % multiple:
        below = resolution - resolution % multiple
        raise GeneratorError(
            f"{name} cannot make {resolution} pixels: a side is a multiple of {multiple}, "
            f"such as {below} or {below + multiple}."
        )
    if largest is not None and resolution > largest:
        raise GeneratorError(
            f"{name} cannot make {resolution} pixels: its positions end at {largest} pixels a side."
        )


def needed_bytes(spec: GeneratorSpec, itemsize: int, text_encoders: bool = True) -> int:
    """Return the bytes of all weights on the device, without activations."""
    return (spec.total_parameters - (0 if text_encoders else spec.text_parameters)) * itemsize


def check_memory(name: str, needed: int, free: int) -> None:
    """Refuse weights of `needed` bytes that do not fit into `free`. Raises GeneratorError."""
    if needed > free:
        raise GeneratorError(
            f"{name} does not fit on the GPU: its weights need {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; text_encoder_device='cpu' or a smaller generator needs less."
        )


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes; None for a device without its own memory."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
