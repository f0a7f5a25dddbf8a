"""Small models of the real classes whose weights and pictures depend on no random number generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import CLIP
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)  # fmt: skip
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vhsbench.verifiers.clip import save_clip

LETTERS = "abcdefghijklmnopqrstuvwxyz,.?!\"'0123456789:"


def set_weights(module: nn.Module) -> nn.Module:
    """Give a module weights that any library makes alike: by name, in order."""
    fill_waves(module.state_dict())
    return module.eval()


def fill_waves(tensors: dict[str, torch.Tensor]) -> None:
    """Fill tensors, matrices with waves of the size of trained weights, vectors with some about 0.5."""
    for number, (_, weight) in enumerate(sorted(tensors.items())):
        if not weight.is_floating_point():
            continue
        wave = torch.sin(0.7 * torch.arange(weight.numel(), dtype=torch.float64) ** 1.1 + number)
        middle, size = (0.0, (2 / weight[0].numel()) ** 0.5) if weight.ndim > 1 else (0.5, 0.2)
        weight.copy_(middle + size * wave.reshape(weight.shape))


def picture(width: int, height: int, number: int) -> Image.Image:
    """Waves of three colours."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((number + 1) * x / 5 + c + y / (4 + number)) for c in range(3)]
    return Image.fromarray((127.5 * (1 + np.stack(waves, -1))).round().astype(np.uint8))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    return [picture(40, 28, 0), picture(32, 32, 1), picture(50, 61, 2), picture(28, 28, 7)]


def save_clip_model(folder: Path) -> Path:
    """Write a CLIPModel and CLIPTokenizer as transformers does."""
    ends = ["<|startoftext|>", "<|endoftext|>"]
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *ends]
    tokenizer = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "projection_dim": 24}  # fmt: skip
    text = tower | {"vocab_size": len(pieces), "max_position_embeddings": 40, "bos_token_id": len(pieces) - 2,
                    "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}  # fmt: skip
    config = CLIPConfig(
        text_config=text, vision_config=tower | {"image_size": 28, "patch_size": 7}, projection_dim=24
    )
    model = set_weights(CLIPModel(config))
    model.logit_scale.data.fill_(3.0)
    model.visual_projection.weight.data.neg_()  # so that most scores are above 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
WHOLE = ("Yes", "yes", "No", "no", "ĠYes", "Ġyes", "two", "Two", "Ġtwo")  # words that are one token
# Qwen's chat, less its system message
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's special tokens."""
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: dict[tuple[str, str], None] = {}
    for word in WHOLE:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = CHAT
    return tokenizer


def small_vlm(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A Qwen2.5-VL or Qwen3-VL of two layers, and its processor."""
    tokenizer = qwen_tokenizer()
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 512,
            "bos_token_id": None, "eos_token_id": ids["vision_end_token_id"]}  # fmt: skip
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
    if name == "qwen2.5-vl":
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
        vision |= {"patch_size": 7, "window_size": 28, "fullatt_block_indexes": [1]}
        config = Qwen2_5_VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **ids)
        model, made = Qwen2_5_VLForConditionalGeneration(config), Qwen2_5_VLProcessor
    else:
        rope = {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        }
        vision |= {"patch_size": 7, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        config = Qwen3VLConfig(
            text_config=text | {"rope_parameters": rope, "head_dim": 8}, vision_config=vision, **ids
        )
        model, made = Qwen3VLForConditionalGeneration(config), Qwen3VLProcessor
    size = {"shortest_edge": 14 * 14, "longest_edge": 56 * 56}
    images = Qwen2VLImageProcessorPil(patch_size=7, size=size)
    set_weights(model)
    model.lm_head.weight.data.mul_(4)  # so that answers are unlike
    return model, made(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT)


OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 28, "patch_size": 7, "width": 32, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


# the words of a BERT for the tests' prompts; [DEC] and [ENC] of BLIP's come after them
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "a", "of", "red",
         "circle", "two", "dogs", "left", "cat", "blue")  # fmt: skip
REWARD = {
    "vision": {"image_size": 28, "patch_size": 14, "hidden_size": 128, "intermediate_size": 192,
               "num_hidden_layers": 2},
    "text": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": len(WORDS) + 2,
             "max_position_embeddings": 40},
}  # fmt: skip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    return save_clip_model(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def open_clip_small() -> tuple[dict[str, Any], CLIP]:
    return OPEN_CLIP, set_weights(CLIP(**OPEN_CLIP))


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory, open_clip_small) -> Path:
    config, model = open_clip_small
    save_clip(folder := tmp_path_factory.mktemp("open_clip"), model, config)
    return folder


@pytest.fixture(scope="session", params=["qwen2.5-vl", "qwen3-vl"])
def vlm(request) -> tuple[PreTrainedModel, ProcessorMixin]:
    return small_vlm(request.param)


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory) -> Path:
    model, processor = small_vlm("qwen2.5-vl")
    model.save_pretrained(folder := tmp_path_factory.mktemp("vlm"))
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def reward_folder(tmp_path) -> Path:
    """The published file of ImageReward, of small sizes, under the names that the image-reward package has."""
    vision, text = REWARD["vision"], REWARD["text"]
    width, patch, inner = vision["hidden_size"], vision["patch_size"], vision["intermediate_size"]
    wide, hidden = text["hidden_size"], text["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, width),
        "blip.visual_encoder.pos_embed": (1, (vision["image_size"] // patch) ** 2 + 1, width),
        "blip.visual_encoder.patch_embed.proj.weight": (width, 3, patch, patch),
        "blip.visual_encoder.patch_embed.proj.bias": (width,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (text["vocab_size"], wide),
        "blip.text_encoder.embeddings.position_embeddings.weight": (text["max_position_embeddings"], wide),
    }

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    for i in range(vision["num_hidden_layers"]):
        block = f"blip.visual_encoder.blocks.{i}"
        for n in (1, 2):
            norm(f"{block}.norm{n}", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.fc1", inner, width)
        linear(f"{block}.mlp.fc2", width, inner)
    norm("blip.visual_encoder.norm", width)
    norm("blip.text_encoder.embeddings.LayerNorm", wide)
    for i in range(text["num_hidden_layers"]):
        layer = f"blip.text_encoder.encoder.layer.{i}"
        for attention, into in (("attention", wide), ("crossattention", width)):
            linear(f"{layer}.{attention}.self.query", wide, wide)
            linear(f"{layer}.{attention}.self.key", wide, into)
            linear(f"{layer}.{attention}.self.value", wide, into)
            linear(f"{layer}.{attention}.output.dense", wide, wide)
            norm(f"{layer}.{attention}.output.LayerNorm", wide)
        linear(f"{layer}.intermediate.dense", hidden, wide)
        linear(f"{layer}.output.dense", wide, hidden)
        norm(f"{layer}.output.LayerNorm", wide)
    linear("blip.vision_proj", 256, width)
    linear("blip.text_proj", 256, wide)
    widths = (wide, 1024, 128, 64, 16, 1)
    for place, into, out in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        linear(f"mlp.layers.{place}", out, into)
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    positions = torch.arange(text["max_position_embeddings"])[None]
    tensors["blip.text_encoder.embeddings.position_ids"] = positions
    fill_waves(tensors)
    torch.save(tensors, tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path
