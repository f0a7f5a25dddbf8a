"""Nano's verifier models, untrained: a word tokenizer, a small Qwen2, a small CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from vhsbench.generators.nano.models import PROMPT_WORDS, word_tokenizer
from vhsbench.generators.nano.world import OPENINGS, PLACES, SIZE
from vhsbench.verifiers.checkpoint import VerifierCard
from vhsbench.verifiers.mllm import MLP2X, Mllm, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2ForCausalLM

TEMPLATE = "<image> does the image match : {prompt} ?"
LLM_SIZES: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
CAPTION_TOKENS = 80  # the longest caption: five objects of five kinds
_CHAT = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
_CAPTION_WORDS = (
    *(word for word in PROMPT_WORDS if word not in OPENINGS[1:]),
    *" ".join(PLACES).split(),
    *[
        "yes",
        "no",
        "user",
        "assistant",
        "does",
        "the",
        "image",
        "match",
        ":",
        "?",
        "describe",
        "at",
        "nothing",
    ],
)
_WORDS = (*_CAPTION_WORDS, *OPENINGS)
_SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")


def llm_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer(_WORDS, _SPECIAL)
    tokenizer.chat_template = _CHAT
    return tokenizer


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer of captions; <eot> has the highest id, where CLIP's text tower reads its feature."""
    words = list(dict.fromkeys(_CAPTION_WORDS))
    return word_tokenizer([*words, "<eot>"], ("<pad>", "<unk>"))


def clip_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int) -> torch.Tensor:
    """Tokenise texts as ids [B, length], each with its <eot>."""
    ids: torch.Tensor = tokenizer(
        [f"{t} <eot>" for t in texts], padding="max_length", max_length=length, truncation=True,
        return_tensors="pt",
    ).input_ids  # fmt: skip
    return ids


def clip_config() -> dict[str, Any]:
    """Return an open_clip model configuration: 64 patches of 8x8 pixels."""
    return {
        "embed_dim": 96,
        "vision_cfg": {
            "image_size": SIZE, "patch_size": 8, "width": 96, "layers": 4, "head_width": 24,
            "mlp_ratio": 3.0,
        },
        "text_cfg": {
            "context_length": CAPTION_TOKENS, "vocab_size": len(clip_tokenizer()),
            "width": 96, "heads": 4, "layers": 2, "mlp_ratio": 3.0,
        },
    }  # fmt: skip


def build_verifier(
    card: VerifierCard, seed: int, sizes: Mapping[str, int] | None = None, connector: str = MLP2X
) -> tuple[Mllm, Question]:
    """Build a new connector and a new LLM for a card's features; `sizes` changes nano's, in Qwen2Config's names."""
    torch.manual_seed(seed)
    tokenizer = llm_tokenizer()
    llm = new_llm(tokenizer, sizes or {})
    return Mllm(llm, card.feature_width, connector), Question(tokenizer, card.template)


def new_llm(tokenizer: PreTrainedTokenizerBase, sizes: Mapping[str, int]) -> Qwen2ForCausalLM:
    """Build an untrained Qwen2 of nano's sizes with the changes `sizes`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            **LLM_SIZES | dict(sizes),
            vocab_size=len(tokenizer),
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=cast(int, tokenizer.convert_tokens_to_ids("<|im_end|>")),
        )
    )
