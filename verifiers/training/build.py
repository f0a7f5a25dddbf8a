"""Build the untrained verifier of a recipe: a connector before a pretrained LLM, or before a new one of nano's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vhsbench.harness.common.models import check_model, model_files, reason
from vhsbench.verifiers.checkpoint import CheckpointError, VerifierCard
from vhsbench.verifiers.hub import model_folder
from vhsbench.verifiers.mllm import Mllm, Question
from vhsbench.verifiers.nano import WEIGHTS
from vhsbench.verifiers.nano.models import build_verifier
from vhsbench.verifiers.questions import read_question
from vhsbench.verifiers.training.recipe import NEW_LLM, VerifierRecipe


def build(recipe: VerifierRecipe, card: VerifierCard, seed: int) -> tuple[Mllm, Question]:
    """Build the model in float32 and its question. Raises CheckpointError for an LLM that is not a Qwen2."""
    if recipe.llm.name == NEW_LLM:
        return build_verifier(card, seed, recipe.llm.sizes, recipe.connector)
    name = str(WEIGHTS / "llm") if recipe.llm.name == "nano" else recipe.llm.name
    llm, question = _pretrained(name, recipe.llm.revision, card.template)
    torch.manual_seed(seed)
    return Mllm(llm, card.feature_width, recipe.connector), question


def _pretrained(name: str, revision: str | None, template: str) -> tuple[Any, Question]:
    """Load the Qwen2 of a folder or hub id and its question. No code from there runs; all weights must be finite."""
    from transformers import Qwen2ForCausalLM

    try:
        folder = model_folder(name if revision is None or Path(name).is_dir() else f"{name}@{revision}")
        files = model_files(folder)
        llm = Qwen2ForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True,
            local_files_only=True, trust_remote_code=False,
        )  # fmt: skip
        check_model(llm, files, name)
        question = read_question(folder, template, llm.config.vocab_size)
    except Exception as error:  # hub and files fail in many ways
        raise CheckpointError(f"the LLM '{name}' cannot be loaded as a Qwen2: {reason(error)}.") from error
    return llm, question
