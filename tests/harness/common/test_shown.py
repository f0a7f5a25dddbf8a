from __future__ import annotations

import io
import unicodedata

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vhsbench.harness.common.shown import (
    csv_bytes,
    csv_cell,
    first_line,
    from_csv_cell,
    markdown_table,
    one_line,
    printable,
    printable_lines,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat, 一只猫 \U0001f600", "a cat, 一只猫 \U0001f600"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("nul\x00 bell\x07 nel\x85", r"nul\x00 bell\x07 nel\x85"),
        ("two\nlines\tand\r", r"two\nlines\tand\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("half \ud83d", r"half \ud83d"),
        (r"a \n as it is", r"a \n as it is"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_lines_are_kept_where_they_are_wanted():
    assert printable_lines("a\n\tb\x1b\r\n") == "a\n\tb\\x1b\\r\n"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_what_is_shown_holds_no_control_character_and_is_text(text):
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in shown)
    shown.encode()
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("error", "first", "one"),
    [
        (ValueError("no such prompt.\nAdvice follows."), "no such prompt", "ValueError: no such prompt"),
        (
            RuntimeError("\n  CUDA out of memory. \r\n"),
            "CUDA out of memory",
            "RuntimeError: CUDA out of memory",
        ),
        (OSError("\x1b[31mred"), r"\x1b[31mred", r"OSError: \x1b[31mred"),
        (KeyError(), "KeyError", "KeyError"),
        (AssertionError("."), "AssertionError", "AssertionError"),
    ],
)
def test_an_error_is_shown_on_one_line_without_a_period(error, first, one):
    assert first_line(error) == first
    assert one_line(error) == one


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum"])
def test_a_cell_is_no_formula(text):
    assert csv_cell(text) == f"'{text}"


@given(st.text())
@example("'@")
def test_a_cell_is_read_back(text):
    assert from_csv_cell(csv_cell(text)) == printable(text)


def test_a_table_guards_its_texts_and_leaves_its_numbers():
    table = pd.DataFrame({"text": ["=1", "b\x00", None], "number": [-1.5, 2.0, None], "count": [-1, 2, 3]})
    assert csv_bytes(table).decode() == "text,number,count\n'=1,-1.5,-1\nb\\x00,2.0,2\n,,3\n"
    assert pd.read_csv(io.BytesIO(csv_bytes(table)))["number"].iloc[0] == -1.5


def test_a_markdown_table():
    assert (
        markdown_table(["a", ""], [("x", 1), ["y", 2.5]])
        == "| a |  |\n| --- | --- |\n| x | 1 |\n| y | 2.5 |\n"
    )
