"""A VLM that is asked questions about images: how likely its answer begins with a given word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import nn

from vhsbench.generators.random_weights import empty_module, fill
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.models import load_model, no_code, reason
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.mllm import IMAGE, PROMPT
from vhsbench.verifiers.questions import try_out
from vhsbench.verifiers.qwen import KnownPieces
from vhsbench.verifiers.scorers.scorer import check_tokens
from vhsbench.verifiers.verifier import FeatureError

ROWS = 16  # questions that are asked in one forward
Images = Sequence[Image.Image]
QWEN2_5_VL_7B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    },
}  # fmt: skip
QWEN3_VL_8B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
                            "mrope_interleaved": True},
    },
    "vision_config": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
        "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    },
}  # fmt: skip


class Reader(Protocol):
    """What makes a model's inputs."""

    def inputs(self, questions: Sequence[str], images: Images) -> Mapping[str, torch.Tensor]:
        """Make one chat of each question and its image, padded on the left."""
        ...

    def first(self, word: str) -> int:
        """Return the first token of a word."""
        ...


class Vlm:
    """A model for images and text of transformers, and what makes its inputs."""

    name = "vlm"

    def __init__(self, module: nn.Module, reader: Reader) -> None:
        self.module, self._reader = module, reader

    def likely(
        self, questions: Sequence[str], images: Images, answers: Sequence[Sequence[str]]
    ) -> torch.Tensor:
        """Return how likely the answer [Q] to each question about its image is one of its words.

        It is the probability of the words' first tokens, each counted once, among all tokens. Raises FeatureError.
        """
        place = next(self.module.parameters())
        if place.is_meta:
            raise FeatureError("a VLM computes nothing on 'meta', as it looks at the values of its inputs.")
        found = []
        for start in range(0, len(questions), ROWS):
            rows = slice(start, start + ROWS)
            made = self._reader.inputs(questions[rows], images[rows]).items()
            inputs = {k: v.to(place) if v.is_floating_point() else v.to(place.device) for k, v in made}
            logits = self.module(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            for row, words in zip(logits.float().softmax(-1), answers[rows], strict=True):
                found.append(row[sorted({self._reader.first(word) for word in words})].sum())
        return torch.stack(found)


class HubReader:
    """A model's own processor: chat template, tokenizer and preparation of images."""

    def __init__(self, processor: Any) -> None:
        processor.tokenizer.padding_side = "left"  # the answer then comes next in every row
        self._processor = processor

    def inputs(self, questions: Sequence[str], images: Images) -> Mapping[str, torch.Tensor]:
        """See Reader.inputs."""
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        texts = self._processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        rgb = [image.convert("RGB") for image in images]
        return dict(self._processor(text=texts, images=rgb, padding=True, return_tensors="pt"))

    def first(self, word: str) -> int:
        """See Reader.first."""
        return int(self._processor.tokenizer.encode(word, add_special_tokens=False)[0])


class StandInReader:
    """The inputs of a random Qwen VL: as many tokens as the true ones, or as `verifiers.qwen` guesses."""

    def __init__(self, config: Any) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self._config, self._pieces = config, KnownPieces()
        vision = config.vision_config
        self._merged = vision.spatial_merge_size**2
        self._prepare = Qwen2VLImageProcessorPil(patch_size=vision.patch_size)

    def inputs(self, questions: Sequence[str], images: Images) -> Mapping[str, torch.Tensor]:
        """See Reader.inputs."""
        made = dict(self._prepare(list(images), return_tensors="pt"))
        rows = []
        for question, patches in zip(questions, made["image_grid_thw"].prod(-1).tolist(), strict=True):
            before = self._pieces.encode(
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            )
            after = self._pieces.encode(f"{question}<|im_end|>\n<|im_start|>assistant\n")
            image = [self._config.image_token_id] * (patches // self._merged)
            rows.append(
                [
                    *before,
                    self._config.vision_start_token_id,
                    *image,
                    self._config.vision_end_token_id,
                    *after,
                ]
            )
        longest = max(map(len, rows))
        pad = self._pieces.pad_token_id
        made["input_ids"] = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        made["attention_mask"] = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        made["mm_token_type_ids"] = (made["input_ids"] == self._config.image_token_id).long()
        return made

    def first(self, word: str) -> int:
        """See Reader.first."""
        return self._pieces.encode(word)[0]


def load_vlm(folder: Path, device: torch.device, dtype: torch.dtype) -> Vlm:
    """Load a folder as the hub has it. Raises CheckpointError."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with read_errors_as(CheckpointError):
        module = load_model(AutoModelForImageTextToText, folder, device, dtype, "VLM")
        try_out(folder, f"{IMAGE}{PROMPT}")
    try:
        with no_code():
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        made = Vlm(module, HubReader(processor))
    except Exception as error:  # a damaged processor can raise anything
        raise CheckpointError(f"{folder} holds no processor that can be read: {reason(error)}.") from error
    check_tokens(processor.tokenizer, module.config.get_text_config().vocab_size, folder)
    try:
        with torch.inference_mode():
            made.likely(["Is it black?"], [Image.new("RGB", (64, 64))], [("Yes",)])
    except Exception as error:  # of a processor and a model that do not fit
        raise CheckpointError(
            f"{folder}: its model cannot be asked by its processor: {reason(error)}."
        ) from error
    return made


def random_vlm(
    class_name: str, settings: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Vlm:
    """Build a Qwen VL of those settings with random weights."""
    module = empty_module("transformers", class_name, dict(settings))
    fill(module, device, dtype, seed)
    return Vlm(module, StandInReader(module.config))
