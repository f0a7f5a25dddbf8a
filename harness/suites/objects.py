"""Suites whose prompts list the objects that an image must have: GenEval's, and nano's two."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vhsbench.harness.common.text import read_json_lines
from vhsbench.harness.geneval import prompts as geneval_prompts
from vhsbench.harness.geneval.metadata import check
from vhsbench.harness.geneval.nano_prompts import SPLITS, balanced, composed_prompts, nano_prompts
from vhsbench.harness.suites.base import Metadata, Placed, Suite, SuiteError, first, needs_prompts


def geneval(path: str | None = None) -> Suite:
    """Make GenEval's suite: its 553 prompts, or those of a file in its format, JSON lines."""
    return Suite(
        "geneval", partial(_metadata, Path(path)) if path else _official, ("geneval",), "tasks", choose=first
    )


def nano(split: str = "evaluation") -> Suite:
    """Make nano's suite: its prompts of GenEval's six tasks, those of a split."""
    if split not in SPLITS:
        raise SuiteError(f"suite 'nano' has no split '{split}'; its splits are {', '.join(SPLITS)}.")
    return Suite(
        "nano", lambda: _numbered("nano", nano_prompts()[split]), ("geneval",), "tasks", choose=_tasks_alike
    )


def nano_composed() -> Suite:
    """Make nano's second suite: colours with counts and places, up to three objects; no verifier was trained on it."""
    return Suite("nano-composed", lambda: _numbered("nano-composed", composed_prompts()), ("geneval",))


def _official() -> list[Placed]:
    return _numbered("geneval", geneval_prompts.official())


def _metadata(file: Path) -> Sequence[Placed]:
    """Read GenEval's metadata. Raises ReadError or MetadataError, with the line."""
    found = [(f"{file}, line {number}", prompt) for number, prompt in read_json_lines(file)]
    return needs_prompts([(place, check(prompt, place)) for place, prompt in found], file)


def _numbered(name: str, prompts: Sequence[Metadata]) -> list[Placed]:
    return [(f"prompt {i} of {name}", prompt) for i, prompt in enumerate(prompts)]


def _tasks_alike(prompts: Sequence[Placed], count: int) -> list[Placed]:
    return _numbered("nano", balanced([prompt for _, prompt in prompts], count))
