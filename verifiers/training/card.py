"""Write the model card of a trained verifier: README.md in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vhsbench.generators.protocol import blocks_of
from vhsbench.harness.common.shown import markdown_table
from vhsbench.verifiers.checkpoint import VerifierCard
from vhsbench.verifiers.training.recipe import NEW_LLM, Recipe
from vhsbench.verifiers.training.shards import DataCard

Metrics = dict[str, Any]
_NAMES = {"vhs": "VHS", "mllm-clip": "MLLM w/ CLIP", "mllm-ae": "MLLM w/ AE"}
_READS = {
    "vhs": "hidden states of {blocks} (l*, 0-based)",
    "mllm-clip": "pixels, through CLIP",
    "mllm-ae": "final latents",
}


def model_card(
    name: str, recipe: Recipe, card: VerifierCard, data: Mapping[str, DataCard], metrics: Metrics
) -> str:
    """Write the card in Markdown: what it reads, from which generator, the data's hashes, recipe and metrics."""
    made = data["train"]
    blocks = () if card.block is None else blocks_of(card.block)
    what = "the mean of blocks" if len(blocks) > 1 else "block"
    reads = _READS[card.kind].format(blocks=f"{what} {', '.join(map(str, blocks))}")
    head = {"library_name": "vhsbench", "pipeline_tag": "image-text-to-text"}
    llm = recipe.verifier.llm.name
    if llm not in ("nano", NEW_LLM) and not Path(llm).exists():
        head["base_model"] = llm
    facts: dict[str, Any] = {
        "generator": card.generator,
        "generator's revision": made.revision or "unknown",
        "reads": reads,
        "width of a visual token": card.feature_width,
        "visual tokens": card.visual_tokens,
        "connector": recipe.verifier.connector,
        "LLM": _named(llm),
    }
    stage = "aligned: it captions, and has not learnt to judge" if name == "aligned" else "both stages"
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "",
        f"# {_NAMES[card.kind]} for {card.generator} ({stage})", "",
        f"Trained by vhsbench; read it with `verifiers.create('{card.kind}', checkpoint=FOLDER)` or in a run's "
        f"configuration as `{{name: {card.kind}, checkpoint: FOLDER}}`.", "",
        markdown_table(["what it is", ""], facts.items()),
        markdown_table(
            ["data", "samples", "SHA-256"], [(part, d.rows, f"`{d.sha256()}`") for part, d in data.items()]
        ),
        markdown_table(["measured", ""], [(k, _short(v)) for k, v in metrics.items()]),
        "Recipe:", "", "```yaml",
        yaml.safe_dump(_recipe(recipe, card), sort_keys=False).strip(), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _recipe(recipe: Recipe, card: VerifierCard) -> dict[str, Any]:
    """Return the recipe as plain data, without paths of the machine that trained."""
    plain: dict[str, Any] = json.loads(recipe.model_dump_json(exclude={"engine"}))
    plain["verifier"]["clip"] = card.vision_tower
    plain["verifier"]["llm"]["name"] = _named(recipe.verifier.llm.name)
    plain["precision"] = recipe.engine.precision
    return plain


def _named(llm: str) -> str:
    return Path(llm).name if Path(llm).exists() else llm


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
