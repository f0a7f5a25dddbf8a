"""Suites that are lists of prompts, in tasks where the list has them: judged by a model of preference or of likeness."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vhsbench.harness.common.delimited import read_rows
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.prompt_files import check_length, parse_texts
from vhsbench.harness.common.shown import printable
from vhsbench.harness.common.text import read_text
from vhsbench.harness.suites.base import Placed, Suite, SuiteError, needs_prompts, own_copy

DRAWBENCH = "DrawBench's sheet as CSV, with the columns Prompts and Category (imagen.research.google)"
PARTIPROMPTS = "PartiPrompts.tsv of github.com/google-research/parti"
T2I_COMPBENCH = "examples/dataset of github.com/Karine-Huang/T2I-CompBench"
# the files whose images the paper's table evaluates are {category}_val.txt; the last two came with its second edition
_LIKELY = {"name": "vqa-score", "options": {"threshold": 0.5}}  # right where yes is more likely than no
CATEGORIES = ("color", "shape", "texture", "spatial", "non_spatial", "complex", "3d_spatial", "numeracy")


def drawbench(path: str | None = None) -> Suite:
    """Make the suite of DrawBench (arXiv 2205.11487), in its categories."""
    read = partial(_table, "drawbench", path, DRAWBENCH, "Prompts", "Category")
    return Suite("drawbench", read, (_LIKELY, "hps-v2"), copy=DRAWBENCH)


def partiprompts(path: str | None = None, task: str = "Category") -> Suite:
    """Make the suite of PartiPrompts (arXiv 2206.10789); its tasks are the values of Category or Challenge."""
    if task not in ("Category", "Challenge"):
        raise SuiteError(f"suite 'partiprompts' has the tasks of Category or Challenge, not '{task}'.")
    read = partial(_table, "partiprompts", path, PARTIPROMPTS, "Prompt", task)
    return Suite("partiprompts", read, (_LIKELY, "hps-v2"), copy=PARTIPROMPTS)


def t2i_compbench(path: str | None = None, split: str = "val") -> Suite:
    """Make the suite of T2I-CompBench (arXiv 2307.06350): a file of prompts for each category that the folder has."""
    if split not in ("val", "train"):
        raise SuiteError(f"suite 't2i-compbench' has the splits val and train, not '{split}'.")
    read = partial(_categories, path, split)
    return Suite("t2i-compbench", read, (_LIKELY,), "tasks", copy=T2I_COMPBENCH)


def own(path: str | None = None) -> Suite:
    """Make a suite of a user's own prompts: a text file, one a line, or JSON lines with "prompt"."""
    copy = "a file of prompts, one a line"
    return Suite(
        "own", lambda: _lines(own_copy("own", path, copy), "own"), (_LIKELY, "clip-score"), copy=copy
    )


def _table(name: str, path: str | None, copy: str, prompt: str, task: str) -> Sequence[Placed]:
    file = own_copy(name, path, copy)
    rows = [(f"{file}, line {line}", row) for line, row in read_rows(file, (prompt, task))]
    return needs_prompts([_placed(where, row[prompt], row[task].strip()) for where, row in rows], file)


def _categories(path: str | None, split: str) -> Sequence[Placed]:
    folder = own_copy("t2i-compbench", path, T2I_COMPBENCH)
    files = {c: folder / f"{c}_{split}.txt" for c in CATEGORIES}
    there = {c: file for c, file in files.items() if file.exists()}
    if not there:
        raise ReadError(
            f"{folder}: no folder with {', '.join(f.name for f in files.values())}, or some of them."
        )
    return [placed for category, file in there.items() for placed in _lines(file, category)]


def _lines(file: Path, task: str) -> Sequence[Placed]:
    found = [(f"{file}, line {n}", text) for n, text in parse_texts(read_text(file), str(file))]
    return needs_prompts([_placed(where, text, task) for where, text in found], file)


def _placed(where: str, prompt: str, task: str) -> Placed:
    for what, text in (("prompt", prompt), ("category", task)):
        if not text.strip():
            raise ReadError(f"{where}: the {what} is empty.")
    check_length(prompt, where)
    check_length(task, where)
    return where, {"prompt": prompt.strip(), "tag": printable(task)}
