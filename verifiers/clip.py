"""CLIP vision towers of open_clip and transformers: patch features of layer -2, no class token, no final norm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.models import check_folder, check_weights, load_model, reason
from vhsbench.harness.common.tensors import load_tensors
from vhsbench.harness.common.text import read_json_object
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.hub import model_folder

if TYPE_CHECKING:
    from open_clip import CLIP
    from PIL import Image
    from transformers import CLIPVisionModel

OFFICIAL = "openai/clip-vit-large-patch14-336"
OFFICIAL_CONFIG: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
PICKLED = "pytorch_model.bin"
OPEN_CLIP, _OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class ClipPatches:
    """A CLIP vision model of transformers: images -> features [B, T, C], in the model's dtype."""

    def __init__(self, model: CLIPVisionModel) -> None:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        config = model.config
        self.width: int = config.hidden_size
        size, patch = cast(int, config.image_size), cast(int, config.patch_size)  # CLIP's are no pairs
        self.tokens = (size // patch) ** 2
        # hidden_states[-2] is the input of the last layer, so that layer need not run
        model.encoder.layers = model.encoder.layers[: config.num_hidden_layers - 1]
        self.model = model.eval().requires_grad_(False)
        self._preprocess = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        self.normal = size, list(self._preprocess.image_mean), list(self._preprocess.image_std)

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Prepare images as [B, 3, S, S] float32: shorter side to S (bicubic, PIL), centre crop, CLIP's mean and std."""
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

        self.model = model.visual  # without the text tower
        self.width: int = config["vision_cfg"]["width"]
        self.tokens = (config["vision_cfg"]["image_size"] // config["vision_cfg"]["patch_size"]) ** 2
        self._layer = config["vision_cfg"]["layers"] - 2
        prepared = PreprocessCfg(size=config["vision_cfg"]["image_size"])
        self._preprocess = image_transform_v2(prepared, is_train=False)
        self.normal = config["vision_cfg"]["image_size"], list(prepared.mean), list(prepared.std)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Prepare images as [B, 3, S, S], as the tower was trained."""
        return torch.stack([self._preprocess(image) for image in images]).to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        output = self.model.forward_intermediates(
            self.pixels(images),
            indices=[self._layer],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        features: torch.Tensor = output["image_intermediates"][0]
        return features


def tower_folder(name: str | Path) -> Path:
    """Return the folder `name`, or the local snapshot of hub id `name`. Raises CheckpointError."""
    return model_folder(name, also=(PICKLED,))  # OpenAI's CLIP has no safetensors on the hub


def load_tower(folder: Path, device: torch.device, dtype: torch.dtype) -> ClipPatches | OpenClipPatches:
    """Load the vision tower in a folder: one that `save_clip` wrote, or a CLIP of transformers.

    Raises CheckpointError, also for weights that are not finite floating-point numbers.
    """
    if (folder / OPEN_CLIP).is_file():
        return load_clip(folder, device)[1]
    from transformers import CLIPVisionModel

    with read_errors_as(CheckpointError):
        model = load_model(CLIPVisionModel, folder, device, dtype, "CLIP", pickles=True)
    return ClipPatches(model)


def empty_tower() -> nn.Module:
    """Build CLIP ViT-L/14@336's vision model, with torch's default weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**OFFICIAL_CONFIG | {"attn_implementation": "sdpa"}))


def save_clip(folder: Path, model: CLIP, config: dict[str, Any]) -> None:
    """Write an open_clip model with its custom config."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / _OPEN_CLIP_WEIGHTS, metadata={"format": "pt"})
    (folder / OPEN_CLIP).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_clip(folder: Path, device: torch.device) -> tuple[CLIP, OpenClipPatches]:
    """Read what `save_clip` wrote, as float32: the whole model, and its vision tower. Raises CheckpointError."""
    from open_clip import CLIP

    file = folder / _OPEN_CLIP_WEIGHTS
    with read_errors_as(CheckpointError):
        check_folder(folder)
        config = read_json_object(folder / OPEN_CLIP)
        tensors = load_tensors(file)
        check_weights(tensors, file)
    try:
        if elsewhere := {"hf_model_name", "timm_model_name"} & {*config["vision_cfg"], *config["text_cfg"]}:
            raise CheckpointError(f"{folder / OPEN_CLIP} has '{elsewhere.pop()}', a model that is elsewhere.")
        model = CLIP(**config)
        model.load_state_dict(tensors)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged configuration can raise anything
        raise CheckpointError(f"{folder} holds no open_clip model of ours: {reason(error)}.") from error
    model = model.to(device).eval().requires_grad_(False)
    return model, OpenClipPatches(model, config)
