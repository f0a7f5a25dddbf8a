"""The pictures that a run keeps for its galleries: of which prompts, and where they lie. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.geneval.rules import TAGS


def image_name(key: str, prompt_id: int, index: int) -> str:
    """Where a picture lies in a run directory; `key` is the generator entry's."""
    return f"images/{key}/{prompt_id:05d}_{index:04d}.png"


def image_file(run: Path, key: str, prompt_id: int, index: int) -> Path:
    """The picture's file in the run directory `run`."""
    return run / image_name(key, prompt_id, index)


def gallery_prompts(prompts: Sequence[dict[str, Any]], count: int) -> list[int]:
    """Ids of `count` prompts, the six tasks in turn, spread over each task's prompts."""
    by_task = [[i for i, p in enumerate(prompts) if p["tag"] == tag] for tag in TAGS]
    by_task = [ids for ids in by_task if ids]
    per_task = -(-count // len(by_task)) if by_task else 0
    picks = [np.linspace(0, len(i) - 1, min(per_task, len(i))).astype(int) for i in by_task]
    return [ids[k] for ids, chosen in zip(by_task, picks, strict=True) for k in chosen][:count]
