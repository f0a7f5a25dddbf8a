"""Nano's three trained verifiers, bundled with the package."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from verifiers.verifier import MllmVerifier, load_verifier

WEIGHTS = Path(__file__).parent / "weights"


def create(
    kind: str,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MllmVerifier:
    """The verifier of `kind`; `checkpoint` is a folder, by default the bundled one."""
    folder = Path(checkpoint) if checkpoint else WEIGHTS / kind
    return load_verifier(
        kind,
        folder,
        clip_folder=WEIGHTS / "clip" if kind == "mllm-clip" else None,
        source=str(checkpoint) if checkpoint else "bundled",
        device=device,
        dtype=dtype,
    )


create_vhs = partial(create, "vhs")
create_mllm_clip = partial(create, "mllm-clip")
create_mllm_ae = partial(create, "mllm-ae")
