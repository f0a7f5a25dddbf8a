"""A checkpoint folder as the authors' release has it: tiny Qwen2, byte-level BPE, Qwen's chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from vhsbench.verifiers.mllm import PAPER_TEMPLATE, answer_scores
from vhsbench.verifiers.protocol import Scores
from vhsbench.verifiers.verifier import MllmVerifier

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture(scope="session")
def qwen_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([PAPER_TEMPLATE, "yes no Yes eyes a photo of a bench"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = _CHAT
    return tokenizer


OfficialFolder = Callable[..., Path]


@pytest.fixture
def official(tmp_path: Path, qwen_tokenizer: PreTrainedTokenizerFast) -> OfficialFolder:
    """official(width=2240, config={...}, tied=True, shards=1): a new folder without verifier.json."""

    def make(
        width: int = 2240, config: dict[str, Any] | None = None, tied: bool = True, shards: int = 1
    ) -> Path:
        folder = tmp_path / f"official_{len(list(tmp_path.iterdir()))}"
        qwen_tokenizer.save_pretrained(folder)
        # as the authors' folder says it: Qwen2's own class, the template in the tokenizer's configuration
        (folder / "chat_template.jinja").unlink()
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings |= {"tokenizer_class": "Qwen2Tokenizer", "chat_template": _CHAT}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        sizes = {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 640, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": tied,
        }  # fmt: skip
        torch.manual_seed(0)
        llm = Qwen2ForCausalLM(
            Qwen2Config(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
        )
        tensors = {k: 3 * v.clone() for k, v in llm.state_dict().items() if not tied or k != "lm_head.weight"}
        for key, shape in (
            ("0.weight", (64, width)),
            ("0.bias", (64,)),
            ("2.weight", (64, 64)),
            ("2.bias", (64,)),
        ):
            tensors[f"model.mm_projector.{key}"] = 0.1 * torch.randn(shape)
        tensors["model.vision_tower.unused.weight"] = torch.zeros(1)
        keys = sorted(tensors)
        parts = [keys[i::shards] for i in range(shards)]
        names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
        names = names if shards > 1 else ["model.safetensors"]
        for name, part in zip(names, parts, strict=True):
            save_file({k: tensors[k].contiguous() for k in part}, folder / name, metadata={"format": "pt"})
        if shards > 1:
            weight_map = {k: name for name, part in zip(names, parts, strict=True) for k in part}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        release = sizes | {
            "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen", "rope_theta": 1e6,
            "hidden_act": "silu", "torch_dtype": "bfloat16", "use_sliding_window": False, "sliding_window": None,
            "max_window_layers": 2, "mm_vision_tower": "hidden_states", "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_feature": "block_7", "mm_vision_select_layer": -2, "mm_hidden_size": width,
        } | (config or {})  # fmt: skip
        (folder / "config.json").write_text(json.dumps(release))
        (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.01, "top_k": 1}))
        return folder

    return make


@pytest.fixture
def statistics(tmp_path: Path) -> tuple[Path, Path]:
    """mean.pt and variance.pt of SANA-Sprint's width, [1, C] in bfloat16."""
    random = torch.Generator().manual_seed(1)
    mean, variance = tmp_path / "mean.pt", tmp_path / "variance.pt"
    torch.save(torch.randn(1, 2240, generator=random).bfloat16(), mean)
    torch.save(torch.rand(1, 2240, generator=random).add(0.5).bfloat16(), variance)
    return mean, variance


@pytest.fixture(scope="session")
def cached_prefix() -> Callable[[MllmVerifier, list[str], torch.Tensor], Scores]:
    """Scoring with the keys and values of the text before the image computed once a batch."""

    @torch.inference_mode()
    def score(verifier: MllmVerifier, prompts: list[str], features: torch.Tensor) -> Scores:
        llm: Any = verifier.model.llm
        before, after, lengths = verifier.text(prompts)
        cache, embed = DynamicCache(config=llm.config), llm.get_input_embeddings()
        llm.model(inputs_embeds=embed(before)[None], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))
        projected = verifier.model.connector(verifier.visual(prompts, features))
        sequence = torch.cat([projected, embed(after)], dim=1)
        states = llm.model(inputs_embeds=sequence, past_key_values=cache, use_cache=True).last_hidden_state
        last = states[torch.arange(len(prompts)), projected.shape[1] - 1 + lengths]
        return answer_scores(verifier.model.logits(last), verifier.question)

    return score
