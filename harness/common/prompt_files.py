"""Read files of prompts, the same way in every command: JSON lines with a text "prompt", or plain lines."""

from __future__ import annotations

from typing import Any

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.limits import LONGEST_PROMPT
from vhsbench.harness.common.text import lines, parse_json_lines


def parse_prompts(text: str, name: str) -> list[tuple[int, dict[str, Any]]]:
    """Parse JSON lines as (line number from 1, object with "prompt"). Raises ReadError, with the line."""
    found = parse_json_lines(text, name)
    for number, row in found:
        if not isinstance(row.get("prompt"), str):
            raise ReadError(f"{name}, line {number}: no JSON object with a text 'prompt'.")
        check_length(row["prompt"], f"{name}, line {number}")
    return found


def parse_texts(text: str, name: str) -> list[tuple[int, str]]:
    """Parse (line number from 1, prompt): JSON lines if the first line is an object, else plain lines.

    Raises ReadError, with the line.
    """
    plain = lines(text)
    if plain and plain[0][1].lstrip().startswith("{"):
        return [(number, row["prompt"]) for number, row in parse_prompts(text, name)]
    for number, line in plain:
        check_length(line, f"{name}, line {number}")
    return plain


def typed_prompt(prompt: str | None) -> str | None:
    """Check a prompt of the command line, and return it. Raises ReadError if it is too long."""
    if prompt is not None:
        check_length(prompt, "the command line")
    return prompt


def check_length(prompt: str, where: str) -> None:
    """Refuse a prompt longer than any text encoder reads; `where` is its place. Raises ReadError."""
    if len(prompt) > LONGEST_PROMPT:
        raise ReadError(
            f"{where}: the prompt has {len(prompt):,} characters; at most {LONGEST_PROMPT:,} are read."
        )
