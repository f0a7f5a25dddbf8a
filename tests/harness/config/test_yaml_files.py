"""YAML of strangers: bounded, and text like any other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vhsbench.harness.config.run import ConfigError, load_config, parse


def bomb():
    levels = ["a: &a0 [1, 1]"] + [
        f"{c}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i, c in enumerate("bcdefghijk", start=1)
    ]
    return "\n".join(levels) + "\nname: x\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "x.yaml: more than 100,000 keys and values, with its aliases written out."),
        ("x: &x {a: [1, 2], b: *x}", "x.yaml, line 1: an alias of what it stands in."),
        ("x: " + "[" * 100_000, "x.yaml: nested more than 100 deep."),
        ("x: " + "[" * 101 + "]" * 101, "x.yaml: nested more than 100 deep."),
        ("x: " + "{a: " * 101 + "1" + "}" * 101, "x.yaml: nested more than 100 deep."),
    ],
    ids=["aliases", "itself", "endless", "lists", "mappings"],
)
def test_yaml_that_explodes_is_one_sentence(text, said):
    with pytest.raises(ConfigError) as error:
        parse(text, "x.yaml")
    assert str(error.value) == said


def test_a_merge_of_many_is_bounded_too():
    levels = ["a: &a0 {x: 1}"] + [
        f"b{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 11)
    ]
    with pytest.raises(ConfigError, match="more than 100,000 keys and values"):
        parse("\n".join(levels), "x.yaml")


def test_aliases_in_moderation_are_read():
    text = "generators: [{name: nano, options: &o {steps: 1}}, {name: nano, label: two, options: *o}]"
    assert [dict(g.options) for g in parse(text, "x.yaml").generators] == [{"steps": 1}] * 2


def test_a_file_is_read_in_any_spelling_of_utf8_and_no_other(tmp_path):
    file = tmp_path / "c.yaml"
    text = "generators: [{name: nano}]\r\nprompts: {source: \u732b.jsonl}\r\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "\u732b.jsonl").write_bytes(b"")
    assert Path(load_config(file).prompts.source) == tmp_path / "\u732b.jsonl"
    file.write_bytes("generators: []\nname: \u4e2d\u6587".encode("gbk"))
    with pytest.raises(ConfigError, match=r"c\.yaml, line 2: not text in UTF-8"):
        load_config(file)
    file.write_bytes(b"#" * (1 << 18) + b"\n")
    with pytest.raises(ConfigError, match=r"c\.yaml has 262,145 bytes; at most 262,144 are read"):
        load_config(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match=r"c\.yaml is a pipe, not a regular file"):
        load_config(file)


def test_half_of_a_surrogate_pair_is_no_character():
    with pytest.raises(ConfigError, match=r"x.yaml, line 2: \\ud800 is half of a surrogate pair"):
        parse('generators: [{name: nano}]\nname: "\\ud800"\n', "x.yaml")
