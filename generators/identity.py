"""What decides the bits that a generator makes, known without loading it: for runs that are opened again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.generators.loading import as_dtype, hub_commit, weights_folder
from vhsbench.generators.lora import find_lora
from vhsbench.generators.random_weights import CONFIGS
from vhsbench.harness.common.digests import file_digest
from vhsbench.harness.common.models import folder_sha256

if TYPE_CHECKING:
    from vhsbench.generators.specs import GeneratorSpec


class Factory(partial[Any]):
    """`open_generator` of a family and its spec, which also says the identity of what it would open."""

    def identity(self, **options: Any) -> dict[str, Any]:
        """See the function `identity`."""
        return identity(self.args[1], **options)


def identity(
    spec: GeneratorSpec,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    dtype: Any = None,
    steps: int | None = None,
    resolution: int | None = None,
    guidance_scale: float | None = None,
    revision: str | None = None,
    lora: str | Path | None = None,
    lora_strength: float = 1.0,
    text_encoder_device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Of the generator that `open_generator` makes of the same options: weights and LoRA by their content, or
    by their commit on the hub, and each option's value, given or by default.

    Raises GeneratorError or ReadError for weights that are not there.
    """
    return {
        "weights": _weights(spec, weights, revision, seed),
        "lora": _lora(spec, lora, lora_strength) if lora is not None else None,
        "dtype": str(as_dtype(dtype or spec.dtype)).removeprefix("torch."),
        "steps": spec.steps if steps is None else steps,
        "resolution": spec.resolution if resolution is None else resolution,
        "guidance_scale": spec.guidance_scale if guidance_scale is None else guidance_scale,
        "devices": [str(place).partition(":")[0] for place in (device, text_encoder_device or device)],
    }


def _weights(
    spec: GeneratorSpec, weights: str | Path | None, revision: str | None, seed: int
) -> dict[str, Any]:
    if weights == "random":
        return {"random": seed, "sizes": file_digest(CONFIGS / f"{spec.name}.json")}
    folder = weights_folder(spec, weights)
    if folder is not None:
        return {"sha256": folder_sha256(folder)}
    hub_id, commit = hub_commit(spec, weights, revision)
    return {"hub": hub_id, "commit": commit}


def _lora(spec: GeneratorSpec, lora: str | Path, strength: float) -> dict[str, Any]:
    return {"sha256": file_digest(find_lora(spec.name, lora)), "strength": strength}
