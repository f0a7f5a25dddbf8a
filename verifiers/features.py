"""What a verifier reads, as visual tokens [B, T, C]: hidden states, latents, or CLIP patches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

if TYPE_CHECKING:
    from open_clip import CLIP
    from PIL import Image

_EPSILON = 1e-6


class Normalize(nn.Module):
    """Hidden features less their mean, over their standard deviation, per channel (A.2)."""

    def __init__(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) / torch.sqrt(self.variance + _EPSILON)  # type: ignore[operator]


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance [C] of features [B, T, C], over samples and tokens, in float64."""
    flat = features.reshape(-1, features.shape[-1])
    total = torch.zeros(flat.shape[-1], dtype=torch.float64)
    square = torch.zeros_like(total)
    shift = flat[:4096].double().mean(0)  # keeps the sum of squares small
    for part in flat.split(65536):
        centred = part.double() - shift
        total += centred.sum(0)
        square += centred.square().sum(0)
    mean = total / len(flat)
    return (mean + shift).float(), (square / len(flat) - mean.square()).float()


def flatten_latents(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, C, h, w] -> tokens [B, h*w, C], row by row (A.2)."""
    return latents.flatten(2).transpose(1, 2)


class OpenClipPatches:
    """Patch features of layer -2 of an open_clip vision tower; no class token, no final norm."""

    def __init__(self, model: CLIP, config: dict[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.model = model
        self.width: int = config["vision_cfg"]["width"]
        self.tokens = (config["vision_cfg"]["image_size"] // config["vision_cfg"]["patch_size"]) ** 2
        self._layer = config["vision_cfg"]["layers"] - 2
        self._preprocess = image_transform_v2(
            PreprocessCfg(size=config["vision_cfg"]["image_size"]), is_train=False
        )

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images -> [B, 3, S, S], preprocessed as the tower was trained."""
        return torch.stack([self._preprocess(image) for image in images]).to(self.device)  # type: ignore[misc,operator]

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images -> features [B, T, C]."""
        output = self.model.visual.forward_intermediates(
            self.pixels(images),
            indices=[self._layer],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        features: torch.Tensor = output["image_intermediates"][0]
        return features


def save_clip(folder: Path, model: CLIP, config: dict[str, Any]) -> None:
    """Write an open_clip model with its custom config."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_clip(folder: Path, device: torch.device) -> OpenClipPatches:
    """Read what `save_clip` wrote, as float32."""
    from open_clip import CLIP

    config = json.loads((folder / "open_clip_config.json").read_text())
    model = CLIP(**config)
    model.load_state_dict(
        {k: v.float() for k, v in load_file(folder / "open_clip_model.safetensors").items()}
    )
    return OpenClipPatches(model.to(device).eval().requires_grad_(False), config)
