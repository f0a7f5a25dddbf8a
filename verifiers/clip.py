"""CLIP vision towers: patch features of layer -2, no class token, no final norm; open_clip's and transformers'."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from verifiers.checkpoint import CheckpointError

if TYPE_CHECKING:
    from open_clip import CLIP
    from PIL import Image
    from transformers import CLIPVisionModel

OFFICIAL = "openai/clip-vit-large-patch14-336"
OFFICIAL_CONFIG = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
_OPEN_CLIP = "open_clip_config.json"


class ClipPatches:
    """A CLIP vision model of transformers: images -> features [B, T, C], in the model's dtype."""

    def __init__(self, model: CLIPVisionModel) -> None:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        config = model.config
        self.width: int = config.hidden_size
        self.tokens = (config.image_size // config.patch_size) ** 2
        # hidden_states[-2] is what goes into the last layer, which so need not run
        model.encoder.layers = model.encoder.layers[: config.num_hidden_layers - 1]
        self.model = model.eval().requires_grad_(False)
        size = config.image_size
        self._preprocess = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images -> [B, 3, S, S] float32: shorter side to S (bicubic, PIL), centre crop, CLIP's mean and std."""
        pixels: torch.Tensor = self._preprocess(list(images), return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        features: torch.Tensor = self.model(self.pixels(images)).last_hidden_state[:, 1:]
        return features


class OpenClipPatches:
    """An open_clip model's vision tower (nano's): images -> features [B, T, C]."""

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
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.visual.parameters())

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images -> [B, 3, S, S], preprocessed as the tower was trained."""
        return torch.stack([self._preprocess(image) for image in images]).to(self.device)  # type: ignore[misc,operator]

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        output = self.model.visual.forward_intermediates(
            self.pixels(images),
            indices=[self._layer],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        features: torch.Tensor = output["image_intermediates"][0]
        return features


def load_tower(name: str | Path, device: torch.device, dtype: torch.dtype) -> ClipPatches | OpenClipPatches:
    """The vision tower in a folder or on the hub: an open_clip folder of ours, or a CLIP of transformers."""
    from verifiers.hub import model_folder

    folder = model_folder(name, also=("pytorch_model.bin",))
    if (folder / _OPEN_CLIP).is_file():
        return load_clip(folder, device)
    from transformers import CLIPVisionModel

    try:
        model = CLIPVisionModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no CLIP that can be read: {error}") from error
    return ClipPatches(model.to(device))


def empty_tower() -> nn.Module:
    """CLIP ViT-L/14@336's vision model, with whatever weights torch makes."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**OFFICIAL_CONFIG, attn_implementation="sdpa"))


def save_clip(folder: Path, model: CLIP, config: dict[str, Any]) -> None:
    """Write an open_clip model with its custom config."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / _OPEN_CLIP).write_text(json.dumps(config, indent=1) + "\n")


def load_clip(folder: Path, device: torch.device) -> OpenClipPatches:
    """Read what `save_clip` wrote, as float32."""
    from open_clip import CLIP
    from safetensors.torch import load_file

    config = json.loads((folder / _OPEN_CLIP).read_text())
    model = CLIP(**config)
    model.load_state_dict(
        {k: v.float() for k, v in load_file(folder / "open_clip_model.safetensors").items()}
    )
    return OpenClipPatches(model.to(device).eval().requires_grad_(False), config)
