"""CLIP models with both towers, of transformers and of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from vhsbench.generators.random_weights import empty_module, fill
from vhsbench.harness.common.files import ReadError, read_errors_as
from vhsbench.harness.common.models import check_folder, check_weights, load_model, no_code, reason
from vhsbench.harness.common.text import read_json_object
from vhsbench.harness.common.torch_files import read_state
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.clip import OPEN_CLIP, OpenClipPatches, load_clip
from vhsbench.verifiers.nano.models import clip_ids, clip_tokenizer
from vhsbench.verifiers.scorers.scorer import assign, check_tokens

if TYPE_CHECKING:
    from open_clip import CLIP
    from PIL import Image
    from transformers import CLIPModel

Tokenize = Callable[[Sequence[str]], Mapping[str, torch.Tensor]]  # input_ids [B, L], attention_mask
_PIECES = 49408  # of the byte-pair encoding that every CLIP of OpenAI's and LAION's has
LARGE: dict[str, Any] = {  # OpenAI's ViT-L/14, in CLIPConfig's names
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
                    "projection_dim": 768},
    "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                      "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768},
}  # fmt: skip
HUGE: dict[str, Any] = {  # LAION's ViT-H/14, of which PickScore is
    "projection_dim": 1024,
    "text_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                    "num_hidden_layers": 24, "projection_dim": 1024, "hidden_act": "gelu"},
    "vision_config": {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16,
                      "num_hidden_layers": 32, "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu"},
}  # fmt: skip
OPEN_HUGE = "ViT-H-14"  # the same in open_clip, of which HPS v2 is


class HubTowers:
    """A CLIPModel of transformers with what CLIPProcessor does: the tokenizer, and PIL's bicubic scaling."""

    name = "clip"

    def __init__(
        self, module: CLIPModel, tokenize: Tokenize, statistics: Mapping[str, Any] | None = None
    ) -> None:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        size: int = cast(Any, module.config.vision_config).image_size
        self.module = module
        self._tokenize = tokenize
        self._preprocess = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **(statistics or {})
        )

    @property
    def scale(self) -> torch.Tensor:
        """See Towers.scale."""
        return self.module.logit_scale.exp()

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Compute features [B, D]."""
        pixels: torch.Tensor = self._preprocess(list(images), return_tensors="pt")["pixel_values"]
        states = self.module.vision_model(pixel_values=pixels.to(self.module.logit_scale))
        features: torch.Tensor = self.module.visual_projection(states.pooler_output)
        return features

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Compute features [B, D]."""
        tokens = {key: ids.to(self.module.device) for key, ids in self._tokenize(texts).items()}
        features: torch.Tensor = self.module.text_projection(self.module.text_model(**tokens).pooler_output)
        return features


class OpenTowers:
    """A CLIP of open_clip."""

    name = "clip"

    def __init__(self, module: CLIP, config: Mapping[str, Any], *, whole: bool = False) -> None:
        self.module = module.eval().requires_grad_(False)
        size: int = config["vision_cfg"]["image_size"]
        self._pixels = (
            partial(whole_pixels, size=size) if whole else OpenClipPatches(module, dict(config)).pixels
        )
        self._tokenize = _open_tokenizer(config["text_cfg"])

    @property
    def scale(self) -> torch.Tensor:
        """See Towers.scale."""
        return self.module.logit_scale.exp()

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Compute features [B, D]."""
        features: torch.Tensor = self.module.encode_image(self._pixels(images).to(self.module.logit_scale))
        return features

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Compute features [B, D]."""
        features: torch.Tensor = self.module.encode_text(
            self._tokenize(texts).to(self.module.logit_scale.device)
        )
        return features


def _open_tokenizer(text: Mapping[str, Any]) -> Callable[[Sequence[str]], torch.Tensor]:
    """Return the tokenizer of that many tokens: CLIP's own, or nano's. Raises CheckpointError."""
    from open_clip import SimpleTokenizer

    length, count = int(text["context_length"]), int(text["vocab_size"])
    if count == _PIECES:
        pieces = SimpleTokenizer(context_length=length)
        return lambda texts: pieces(list(texts))
    words = clip_tokenizer()
    if count != len(words):
        raise CheckpointError(
            f"an open_clip model has the {_PIECES:,} tokens of CLIP, or nano's {len(words)}, not {count:,}."
        )
    return lambda texts: clip_ids(words, texts, length)


def whole_pixels(images: Sequence[Image.Image], size: int) -> torch.Tensor:
    """Prepare images as HPS v2 does, [B, 3, size, size]: the longer side to size (bicubic, no crop), black around it."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean, std = (torch.tensor(three)[:, None, None] for three in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    prepared = []
    for image in images:
        levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        height, width = (round(side * size / max(image.size)) for side in (image.height, image.width))
        if max(image.size) != size:
            levels = F.interpolate(levels[None], (height, width), mode="bicubic", antialias=True)[0]
        left, top = (size - width) // 2, (size - height) // 2
        prepared.append((F.pad(levels, (left, size - width - left, top, size - height - top)) - mean) / std)
    return torch.stack(prepared)


def load_towers(folder: Path, device: torch.device, dtype: torch.dtype) -> HubTowers | OpenTowers:
    """Load a folder: what `save_clip` wrote, or a CLIP of transformers. Raises CheckpointError."""
    if (folder / OPEN_CLIP).is_file():
        return _load_open(folder, device, dtype)
    from transformers import CLIPModel, CLIPTokenizer

    with read_errors_as(CheckpointError):
        module = load_model(CLIPModel, folder, device, dtype, "CLIP", pickles=True)
        preprocessing = _statistics(folder / "preprocessor_config.json")
    try:
        with no_code():
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer can raise anything
        raise CheckpointError(
            f"{folder} holds no tokenizer of CLIP's that can be read: {reason(error)}."
        ) from error
    text = module.config.text_config
    check_tokens(tokenizer, text.vocab_size, folder)

    def tokenize(texts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return tokenizer(
            list(texts), padding=True, truncation=True, max_length=text.max_position_embeddings,
            return_tensors="pt",
        )  # fmt: skip

    return HubTowers(module, tokenize, preprocessing)


def _statistics(file: Path) -> dict[str, list[float]]:
    """Read the mean and deviation of a folder's images, where it has them. Raises ReadError."""
    said = read_json_object(file) if file.is_file() else {}
    found = {key: said[key] for key in ("image_mean", "image_std") if said.get(key) is not None}
    for key, values in found.items():
        numbers = isinstance(values, list) and all(isinstance(v, float | int) for v in values)
        if not numbers or len(values) != 3 or (key == "image_std" and not all(values)):
            raise ReadError(f"{file}: '{key}' is {values!r:.60}, not three numbers.")
    return found


def _load_open(folder: Path, device: torch.device, dtype: torch.dtype, whole: bool = False) -> OpenTowers:
    module, _ = load_clip(folder, device)
    return OpenTowers(module.to(dtype), read_json_object(folder / OPEN_CLIP), whole=whole)


def load_hps(folder: Path, device: torch.device, dtype: torch.dtype, name: str) -> OpenTowers:
    """Load HPS v2: its file `name` in the folder, or an open_clip model that `save_clip` wrote. Raises CheckpointError."""
    file = folder / name
    if (folder / OPEN_CLIP).is_file():
        return _load_open(folder, device, dtype, whole=True)
    with read_errors_as(CheckpointError):
        check_folder(folder)
        tensors = read_state(file).tensors
        check_weights(tensors, file)
    module, config = empty_open_clip()
    assign(module, tensors, f"{file} holds no {OPEN_HUGE} of open_clip")
    return OpenTowers(module.to(device, dtype), config, whole=True)


def random_towers(
    config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> HubTowers:
    """Build a CLIPModel of those settings with random weights."""
    from open_clip import SimpleTokenizer

    module = empty_module("transformers", "CLIPModel", dict(config))
    fill(module, device, dtype, seed)
    pieces = SimpleTokenizer(context_length=77)
    return HubTowers(cast("CLIPModel", module), lambda texts: {"input_ids": pieces(list(texts))})


def random_hps(device: torch.device, dtype: torch.dtype, seed: int = 0) -> OpenTowers:
    """Build HPS v2's ViT-H/14 with random weights."""
    module, config = empty_open_clip()
    fill(module, device, dtype, seed)
    return OpenTowers(module, config, whole=True)


def empty_open_clip() -> tuple[CLIP, dict[str, Any]]:
    """Build open_clip's ViT-H/14 on meta; return its configuration, too."""
    from accelerate import init_empty_weights
    from open_clip import CLIP, get_model_config

    config = get_model_config(OPEN_HUGE)
    with init_empty_weights(include_buffers=False):
        return CLIP(**config), config
