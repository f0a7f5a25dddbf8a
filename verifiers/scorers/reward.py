"""ImageReward (Xu et al. 2023): BLIP's text encoder reads the prompt and, by cross-attention, the image; a head scores it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vhsbench.generators.random_weights import HashTokenizer, fill
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.models import check_folder, check_weights, reason
from vhsbench.harness.common.torch_files import read_state
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.hub import model_folder
from vhsbench.verifiers.scorers.scorer import Scorer, assign, check_tokens

if TYPE_CHECKING:
    from PIL import Image

WEIGHTS = "ImageReward.pt"
VOCABULARY = "vocab.txt"
BERT = "google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594"  # whose words BLIP has
LENGTH = 35  # tokens of a prompt
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of rewards, over its training's images
HEAD_WIDTH = 64  # of every BLIP's attention
_HEAD = (1024, 128, 64, 16, 1)
LARGE: dict[str, Any] = {
    "vision": {"image_size": 224, "patch_size": 16, "hidden_size": 1024, "intermediate_size": 4096,
               "num_hidden_layers": 24},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "vocab_size": 30524,
             "max_position_embeddings": 512},
}  # fmt: skip
# the published names -> those of transformers' BlipVisionModel; the text encoder's are the same
_NAMES = (
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"blocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    (r"blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
    (r"norm\.", "post_layernorm."),
)


class Blip(nn.Module):
    """BLIP's two encoders and ImageReward's head, of linear layers alone; `sizes` as LARGE."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        vision, text = sizes["vision"], sizes["text"]
        width: int = text["hidden_size"]
        heads = {"num_attention_heads": vision["hidden_size"] // HEAD_WIDTH}
        self.visual_encoder = BlipVisionModel(BlipVisionConfig(**vision, **heads, layer_norm_eps=1e-6))
        config = BlipTextConfig(
            **text, num_attention_heads=width // HEAD_WIDTH, encoder_hidden_size=vision["hidden_size"]
        )
        self.text_encoder = BlipTextModel(config, add_pooling_layer=False)
        widths = zip((width, *_HEAD), _HEAD, strict=False)
        self.head = nn.ModuleList(nn.Linear(before, after) for before, after in widths)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute rewards [B] of pixels [B, 3, S, S] and prompts' ids and mask [B, L]."""
        image = self.visual_encoder(pixel_values=pixels).last_hidden_state
        # to build the mask transformers looks at its values, which on meta are none; it costs no FLOPs
        states = self.text_encoder(
            input_ids=ids, attention_mask=None if mask.is_meta else mask, encoder_hidden_states=image
        )
        reward = states.last_hidden_state[:, 0]
        for layer in self.head:
            reward = layer(reward)
        return (reward[:, 0].float() - MEAN) / STD


class Reward:
    """The model with its tokenizer and the preparation of images."""

    name = "blip"

    def __init__(self, module: Blip, tokenizer: Any) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.module = module.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        size = module.visual_encoder.config.image_size
        self._prepare = image_transform_v2(PreprocessCfg(size=size), is_train=False)

    def rewards(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
        """Compute rewards [B], float32."""
        place = next(self.module.parameters())
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        pixels = torch.stack([self._prepare(image) for image in images]).to(place)
        mask = tokens.attention_mask.to(place.device)
        return self.module(pixels, tokens.input_ids.to(place.device), mask)


class ImageReward(Scorer):
    """A reward of mean 0 and standard deviation 1 over the images that people compared for its training."""

    _model: Reward

    def scores(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Compute ImageReward, any number."""
        return self._model.rewards(prompts, images)

    def value(self, score: torch.Tensor) -> torch.Tensor:
        """See Verifier.value: the share of a standard normal distribution below it."""
        return torch.special.ndtr(score)


def vocabulary(folder: Path) -> Path:
    """Return the tokenizer's words: the folder's own file, else BERT's from the hub. Raises CheckpointError."""
    own = folder / VOCABULARY
    return own if own.is_file() else model_folder(BERT, only=(VOCABULARY,)) / VOCABULARY


def load_reward(folder: Path, device: torch.device, dtype: torch.dtype) -> Reward:
    """Load the published file of a folder; its sizes are read off its weights. Raises CheckpointError."""
    from accelerate import init_empty_weights
    from transformers import BertTokenizer

    file, words = folder / WEIGHTS, vocabulary(folder)
    with read_errors_as(CheckpointError):
        check_folder(folder)
        tensors = {renamed(key): tensor for key, tensor in read_state(file).tensors.items()}
        check_weights(tensors, file)
    try:
        sizes = sizes_of(tensors)
        with init_empty_weights(include_buffers=False):
            module = Blip(sizes)
    except KeyError as error:
        raise CheckpointError(f"{file} holds no ImageReward: it lacks the key '{error.args[0]}'.") from error
    except Exception as error:  # tensors of any shape may be in a file
        raise CheckpointError(f"{file} holds no ImageReward: {reason(error)}.") from error
    assign(module, tensors, f"{file} holds no ImageReward")
    try:
        tokenizer = BertTokenizer(str(words))
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{words} holds no words of BERT's: {reason(error)}.") from error
    check_tokens(tokenizer, sizes["text"]["vocab_size"], words)
    return Reward(module.to(device, dtype), tokenizer)


def renamed(key: str) -> str:
    """Return our name of a published weight."""
    name = key.removeprefix("blip.")
    if (layer := re.fullmatch(r"mlp\.layers\.(\d+)\.(weight|bias)", key)) and int(layer[1]) in _LINEAR:
        return f"head.{_LINEAR.index(int(layer[1]))}.{layer[2]}"
    if not name.startswith("visual_encoder."):
        return name
    name = name.removeprefix("visual_encoder.")
    for pattern, ours in _NAMES:
        name, changed = re.subn(f"^{pattern}", ours, name)
        if changed:
            break
    return f"visual_encoder.{name}"


_LINEAR = (0, 2, 4, 6, 7)  # places of the head's layers, between dropouts


def sizes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the sizes of weights by our names, as LARGE. Raises KeyError for a missing one."""
    patches = tensors["visual_encoder.embeddings.patch_embedding.weight"]
    positions = tensors["visual_encoder.embeddings.position_embedding"].shape[1] - 1
    words = tensors["text_encoder.embeddings.word_embeddings.weight"]
    return {
        "vision": {
            "image_size": round(positions**0.5) * patches.shape[-1],
            "patch_size": patches.shape[-1],
            "hidden_size": patches.shape[0],
            "intermediate_size": len(tensors["visual_encoder.encoder.layers.0.mlp.fc1.bias"]),
            "num_hidden_layers": _layers(tensors, r"visual_encoder\.encoder\.layers\.(\d+)\."),
        },
        "text": {
            "hidden_size": words.shape[1],
            "intermediate_size": len(tensors["text_encoder.encoder.layer.0.intermediate.dense.bias"]),
            "num_hidden_layers": _layers(tensors, r"text_encoder\.encoder\.layer\.(\d+)\."),
            "vocab_size": len(words),
            "max_position_embeddings": len(tensors["text_encoder.embeddings.position_embeddings.weight"]),
        },
    }


def _layers(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    """Count the layers that there are; by the highest number a file could ask for any."""
    return len({found[1] for key in tensors if (found := re.match(pattern, key))})


def random_reward(
    device: torch.device, dtype: torch.dtype, sizes: Mapping[str, Any] = LARGE, seed: int = 0
) -> Reward:
    """Build it with random weights, by default of its full size."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = Blip(sizes)
    fill(module, device, dtype, seed)
    return Reward(module, HashTokenizer(sizes["text"]["vocab_size"], LENGTH))
