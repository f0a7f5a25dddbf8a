from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.text import (
    DEPTH,
    decode,
    lines,
    parse_json,
    parse_json_lines,
    read_json,
    read_json_lines,
    read_json_object,
    read_lines,
    read_text,
)

BOM = b"\xef\xbb\xbf"
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def refused(read):
    with pytest.raises(ReadError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return caught.value


@given(st.text())
def test_text_is_what_was_written_with_or_without_a_mark(text):
    text = text.removeprefix("\ufeff")
    assert decode(text.encode(), "x") == decode(BOM + text.encode(), "x") == text


@pytest.mark.parametrize("mark", [b"", BOM])
def test_another_encoding_is_told_with_its_line(tmp_path, mark):
    (tmp_path / "gbk.txt").write_bytes(mark + b"one\ntwo\n" + "\u4e2d\u6587".encode("gbk"))
    assert str(refused(lambda: read_text(tmp_path / "gbk.txt"))).endswith(
        "gbk.txt, line 3: not text in UTF-8 (byte 0xd6)."
    )


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"))), st.sampled_from(["\n", "\r\n"]),
       st.booleans())  # fmt: skip
def test_lines_end_at_line_feeds_alone_and_blank_ones_are_counted(texts, end, whole):
    joined = end.join(texts) + (end if whole else "")
    assert lines(joined) == [(n, t) for n, t in enumerate(texts, start=1) if t.strip()]


def test_what_python_splits_at_stays_in_a_line(tmp_path):
    inside = "a\u2028b\u2029c\x0cd\x0be\x85f\x1cg\rh"
    (tmp_path / "a.txt").write_bytes(BOM + f"\r\n{inside}\r\n \nlast".encode())
    assert read_lines(tmp_path / "a.txt") == [(2, inside), (4, "last")]


@given(trees)
def test_json_is_what_was_written(value):
    assert (
        parse_json(json.dumps(value), "x") == parse_json(json.dumps(value, ensure_ascii=False), "x") == value
    )


@given(st.lists(st.dictionaries(st.text(), scalars)), st.sampled_from(["\n", "\r\n", "\n \n"]))
def test_json_lines_are_what_was_written(rows, end):
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert [row for _, row in parse_json_lines(text, "x")] == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON: Expecting value, at column 1."),
        ('{"a": 1,}', "not JSON: Expecting property name enclosed in double quotes, at column 9."),
        ("NaN", "not JSON: NaN is no number in JSON."),
        ('{"a": [-Infinity]}', "not JSON: -Infinity is no number in JSON."),
        ("1e999", "not JSON: the number 1e999 is too large."),
        ("9" * 5000, f"not JSON: the number {'9' * 20}... is too large."),
        ('[{"a": 1, "b": {"c": 1, "c": 2}}]', "not JSON: the key 'c' is given twice in one object."),
        (r'{"a": "x\ud83d"}', r"\ud83d is half of a surrogate pair, which is no character."),
        (r'{"\uDE00": 1}', r"\ude00 is half of a surrogate pair, which is no character."),
        ("[" * 1_000_000, f"nested more than {DEPTH} deep."),
        ('{"a":' * 1_000_000, f"nested more than {DEPTH} deep."),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"nested more than {DEPTH} deep."),
    ],
)
def test_what_is_no_json_is_one_sentence(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert str(refused(lambda: read_json(tmp_path / "a.json"))) == f"{tmp_path / 'a.json'}: {said}"
    if text:
        (tmp_path / "a.jsonl").write_text(f"{{}}\r\n\r\n{text}\r\n", encoding="utf-8")
        error = refused(lambda: read_json_lines(tmp_path / "a.jsonl"))
        assert str(error) == f"{tmp_path / 'a.jsonl'}, line 3: {said}"


def test_what_is_near_a_bound_is_read():
    assert parse_json("[" * DEPTH + "]" * DEPTH, "x")
    assert parse_json(json.dumps([{"a": []}] * 10_000), "x")[-1] == {"a": []}
    assert parse_json("1" * 300, "x") == int("1" * 300)
    assert parse_json(r'"\ud83d\ude00 \u732b"', "x") == "\U0001f600 \u732b"


def test_an_object_is_asked_for(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text("[1]", encoding="utf-8")
    assert str(refused(lambda: read_json_object(tmp_path / "a.json"))).endswith("a.json: not a JSON object.")
    assert str(refused(lambda: parse_json_lines("{}\n3", "x"))) == "x, line 2: not a JSON object."


def test_an_error_in_a_long_file_is_told_with_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n "a": 1\n "b": 2\n}', encoding="utf-8")
    error = refused(lambda: read_json(tmp_path / "a.json"))
    assert str(error).endswith("a.json, line 3: not JSON: Expecting ',' delimiter, at column 2.")


def test_a_large_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2, 3]", encoding="utf-8")
    for read in (read_text, read_lines, read_json, read_json_lines):
        error = refused(lambda read=read: read(tmp_path / "a.json", 8))
        assert str(error).endswith("a.json has 9 bytes; at most 8 are read.")


def test_infinities_are_numbers_only_where_they_are_asked_for(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a": [-Infinity, Infinity, 1]}')
    assert read_json(file, infinities=True) == {"a": [-math.inf, math.inf, 1]}
    with pytest.raises(ReadError, match="-Infinity is no number in JSON"):
        read_json(file)
    file.write_text("[NaN]")
    with pytest.raises(ReadError, match="NaN is no number in JSON"):
        read_json(file, infinities=True)
