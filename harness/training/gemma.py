"""Gemma 3 as the paper uses it (A.1): it describes images, and classifies prompts by task."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.models import check_model, model_files, no_code, reason
from vhsbench.harness.common.registry import nearest
from vhsbench.verifiers.hub import model_folder

if TYPE_CHECKING:
    from PIL import Image

GEMMA = "google/gemma-3-4b-it"

# Fig. 10, prompt 1
TAG_PROMPT = """\
You are an assistant that classifies image generation prompts into one of six categories. Given a text \
prompt describing an image, output ONLY the corresponding tag from this list:

- single_object
- two_object
- counting
- colors
- position
- color_attr

Rules:

1. Respond with exactly one of the tags above — nothing else.
2. Classification criteria:
 - "single_object" → only one object is mentioned.
 - "two_object" → exactly two different objects are mentioned (e.g. "a cat and a dog").
 - "counting" → a specific number of identical objects is requested (e.g. "three dogs").
 - "colors" → a single object with a color attribute (e.g. "a purple umbrella").
 - "position" → objects are described with a spatial relation (e.g. "a cat below a table", "a man left of a horse").
 - "color_attr" → two or more different objects, each with their own color (e.g. "a red apple and a green pear").
3. If uncertain, choose the most specific applicable tag.

Examples:

Input: "a photo of an umbrella" → single_object
Input: "a photo of a bowl and a pizza" → two_object
Input: "a photo of three persons" → counting
Input: "a photo of a purple hair drier" → colors
Input: "a photo of a couch below a cup" → position
Input: "a photo of a red skis and a brown tie" → color_attr

The prompt is {input_prompt}."""

# Fig. 10, prompt 2
CAPTION_PROMPT = (
    "Describe the image in one concise sentence. Be objective and precise, without speculation. "
    "Output only the description in plain text, without line breaks."
)


class GemmaError(VhsbenchError):
    """A Gemma that cannot be loaded; the message is one sentence for a user."""


class Gemma:
    """A Gemma 3 of transformers, loaded at its first question; answers are greedy, not sampled."""

    def __init__(
        self,
        weights: str = GEMMA,
        device: str = "cpu",
        dtype: str = "bfloat16",
        max_new_tokens: int = 96,
        batch_size: int = 16,
    ) -> None:
        """`weights` is a folder, or a hub id with an optional revision ("owner/name@revision")."""
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise GemmaError(f"unknown dtype '{dtype}'; known: bfloat16, float16, float32.")
        self.name = f"gemma {weights}"
        self.weights, self.device, self.dtype = weights, device, dtype
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Load the model and its processor. Raises GemmaError, or CheckpointError if it is not available."""
        from transformers import AutoProcessor, Gemma3ForConditionalGeneration

        folder = model_folder(self.weights)
        try:
            files = model_files(folder)
            with no_code():
                processor = AutoProcessor.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            model = Gemma3ForConditionalGeneration.from_pretrained(
                folder, dtype=getattr(torch, self.dtype), use_safetensors=True,
                local_files_only=True, trust_remote_code=False,
            )  # fmt: skip
            model.to(self.device)  # type: ignore[arg-type]  # transformers' decorator hides self
            check_model(model, files, str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise GemmaError(f"{folder} holds no Gemma 3 that can be read: {reason(error)}.") from error
        processor.tokenizer.padding_side = "left"  # so that all answers begin at the same position
        return model.eval(), processor

    def caption(self, images: Sequence[Image.Image], seen: object = None) -> list[str]:
        """See Captioner; asks the paper's question."""
        return [self._one_line(a) for a in self.answers([CAPTION_PROMPT] * len(images), images)]

    def tags(self, prompts: Sequence[str]) -> list[str]:
        """Return its answers to the question of each prompt's task, unparsed."""
        return [a.strip() for a in self.answers([TAG_PROMPT.replace("{input_prompt}", p) for p in prompts])]

    def answers(self, texts: Sequence[str], images: Sequence[Image.Image] | None = None) -> list[str]:
        """Answer one user message each, with an image before its text if there are images."""
        found: list[str] = []
        for start in range(0, len(texts), self.batch_size):
            part = slice(start, start + self.batch_size)
            found += self._batch(texts[part], images[part] if images is not None else None)
        return found

    @torch.inference_mode()
    def _batch(self, texts: Sequence[str], images: Sequence[Image.Image] | None) -> list[str]:
        model, processor = self._loaded
        messages = []
        for i, text in enumerate(texts):
            content: list[dict[str, Any]] = [{"type": "text", "text": text}]
            if images is not None:
                content.insert(0, {"type": "image", "image": images[i].convert("RGB")})
            messages.append([{"role": "user", "content": content}])
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.device)  # fmt: skip
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        # greedy: the model's default is to sample, but a repeated collection must be the same
        output = model.generate(
            **inputs, do_sample=False, top_k=None, top_p=None, max_new_tokens=self.max_new_tokens
        )
        answers: list[str] = processor.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return answers

    @staticmethod
    def _one_line(answer: str) -> str:
        return " ".join(answer.split())


def open_gemma(options: dict[str, Any], device: str, where: str) -> Gemma:
    """Make Gemma by a configuration's options; `where` names their key. Raises GemmaError for unknown ones."""
    known = list(inspect.signature(Gemma).parameters)
    for option in options:
        if option not in known:
            raise GemmaError(f"{where} has no '{option}'; {nearest(option, known)}")
    return Gemma(**{"device": device, **options})
