"""Suites whose prompts come with questions about their images, from the user's own copy: GenEval 2 and DPG-Bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vhsbench.harness.common.delimited import read_rows
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.prompt_files import check_length, parse_prompts
from vhsbench.harness.common.questions import MOST_QUESTIONS, questions_of
from vhsbench.harness.common.text import read_text
from vhsbench.harness.suites.base import Placed, Suite, needs_prompts, own_copy

GENEVAL2 = "geneval2_data.jsonl of github.com/facebookresearch/GenEval2"
DPG_BENCH = "dpg_bench/dpg_bench.csv of github.com/TencentQQGYLab/ELLA"
_DPG_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "question_natural_language")


def geneval2(path: str | None = None) -> Suite:
    """Make the suite of GenEval 2 (arXiv 2512.16853); a prompt's task is its number of atoms.

    A line is an object with "prompt", "atom_count", "vqa_list" (pairs of a question and its answer) and "skills".
    """
    judge = {"name": "soft-tifa", "options": {"combine": "geometric", "threshold": 0.5}}
    return Suite("geneval2", partial(_geneval2, path), (judge,), copy=GENEVAL2)


def _geneval2(path: str | None) -> Sequence[Placed]:
    file = own_copy("geneval2", path, GENEVAL2)
    rows = parse_prompts(read_text(file), str(file))
    return needs_prompts([_atoms(row, f"{file}, line {number}") for number, row in rows], file)


def _atoms(row: Mapping[str, Any], where: str) -> Placed:
    """Read a line of GenEval 2. Raises ReadError or QuestionError."""
    count, pairs = row.get("atom_count"), row.get("vqa_list")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_QUESTIONS:
        raise ReadError(f"{where}, key 'atom_count': a whole number from 1 to {MOST_QUESTIONS:,} is needed.")
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise ReadError(f"{where}, key 'vqa_list': a list of [question, answer] is needed.")
    questions = [{"question": question, "answer": answer} for question, answer in pairs]
    return _placed(where, row["prompt"], f"{count} atom{'s' * (count > 1)}", questions)


def dpg_bench(path: str | None = None) -> Suite:
    """Make the suite of DPG-Bench (arXiv 2403.05135): questions that depend on others, of which "no" makes them 0.

    A row is a question: "item_id" and "text" are its prompt's, "proposition_id" its number, "dependency" the numbers
    of its parents (0 for none).
    """
    judge = {"name": "soft-tifa", "options": {"combine": "share", "threshold": 1}}
    return Suite("dpg-bench", partial(_dpg_bench, path), (judge,), copy=DPG_BENCH)


def _dpg_bench(path: str | None) -> Sequence[Placed]:
    file = own_copy("dpg-bench", path, DPG_BENCH)
    items: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in read_rows(file, _DPG_COLUMNS):
        items.setdefault(row["item_id"], []).append((line, row))
    return needs_prompts([_item(rows, file) for rows in items.values()], file)


def _item(rows: Sequence[tuple[int, Mapping[str, str]]], file: Path) -> Placed:
    """Put a prompt's questions together. Raises ReadError or QuestionError, with the line."""
    (line, head), places = rows[0], {}
    for i, (at, row) in enumerate(rows):
        where = f"{file}, line {at}"
        if row["text"] != head["text"]:
            raise ReadError(f"{where}: item '{row['item_id']}' has another text than at line {line}.")
        number = _number(row["proposition_id"], f"{where}, column 'proposition_id'")
        if number in places:
            raise ReadError(f"{where}: item '{row['item_id']}' has question {number} twice.")
        places[number] = i
    questions = [
        {"question": row["question_natural_language"], "parents": _parents(row, places, f"{file}, line {at}")}
        for at, row in rows
    ]
    return _placed(f"{file}, line {line}", head["text"], "dpg-bench", questions)


def _parents(row: Mapping[str, str], places: Mapping[int, int], where: str) -> list[int]:
    """Return the places of a question's parents."""
    numbers = [_number(text, f"{where}, column 'dependency'") for text in row["dependency"].split(",")]
    for number in numbers:
        if number and number not in places:
            raise ReadError(f"{where}: depends on question {number}, which item '{row['item_id']}' lacks.")
    return [places[number] for number in numbers if number]


def _number(text: str, where: str) -> int:
    if not text.strip().isdecimal() or len(text) > 9:
        raise ReadError(f"{where}: a whole number is needed, not '{text[:40]}'.")
    return int(text)


def _placed(where: str, prompt: str, tag: str, questions: Sequence[Mapping[str, Any]]) -> Placed:
    if not prompt.strip():
        raise ReadError(f"{where}: the prompt is empty.")
    check_length(prompt, where)
    checked = questions_of({"questions": list(questions)}, where)
    return where, {"prompt": prompt, "tag": tag, "questions": [q.as_metadata() for q in checked]}
