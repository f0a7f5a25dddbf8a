"""The untrained verifier of a recipe: a connector before a pretrained LLM, or before a new small one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from generators.hub import reachable, refusal
from generators.registry import one_line
from verifiers.checkpoint import CheckpointError, VerifierCard
from verifiers.mllm import Mllm, Question
from verifiers.training.recipe import VerifierRecipe


def build(recipe: VerifierRecipe, card: VerifierCard, seed: int) -> tuple[Mllm, Question]:
    """The model in float32 and its question. Raises CheckpointError for an LLM that is no Qwen2."""
    if recipe.llm.name == "nano":
        from verifiers.nano.models import build_verifier

        return build_verifier(card, seed, recipe.llm.sizes, recipe.connector)
    llm, tokenizer = _pretrained(recipe.llm.name, recipe.llm.revision)
    torch.manual_seed(seed)
    return Mllm(llm, card.feature_width, recipe.connector), Question(tokenizer, card.template)


def _pretrained(name: str, revision: str | None) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    is_here = Path(name).is_dir()
    where: dict[str, Any] = {"local_files_only": is_here or not reachable()}
    if not is_here:
        where["revision"] = revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        llm = Qwen2ForCausalLM.from_pretrained(name, dtype=torch.float32, attn_implementation="sdpa", **where)
    except Exception as error:  # hub and files fail in many ways
        unloaded = f"the LLM '{name}' cannot be loaded as a Qwen2: {one_line(error)}."
        raise CheckpointError(refusal(name, error, revision) or unloaded) from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"the tokenizer of the LLM '{name}' has no chat template.")
    return llm, tokenizer
