"""Files of results: what is a row, rows that come again, and their summary."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from vhsbench.harness.geneval import folders
from vhsbench.harness.geneval.prompts import single


def test_official_rows_with_escaped_slashes_are_read(tmp_path):
    table = pd.DataFrame([dict.fromkeys(folders.KEYS, "a/b") | {"correct": True}])
    file = tmp_path / "official.jsonl"
    file.write_text(table.to_json(orient="records", lines=True).rstrip("\n"))
    assert folders.read_results(file).rows[0]["filename"] == "a/b"


def test_results_that_are_none(invoke, tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text('{"a": 1}\n')
    assert "line 1: no GenEval result: 'filename' is missing" in invoke("summary", file)[1]
    file.write_text("nonsense\n{}\n")
    assert "line 1: not JSON" in invoke("summary", file)[1]
    file.write_text("")
    assert "has no results yet" in invoke("summary", file)[1]


def result(filename, correct=True, **changes):
    metadata = json.dumps(single("star"))
    return {"filename": filename, "tag": "single_object", "prompt": "a photo of a star", "correct": correct,
            "reason": "" if correct else "expected star>=1, found 0", "metadata": metadata, "details": "{}"} | changes  # fmt: skip


def written(file, rows, end="\n", mark=b""):
    file.write_bytes(mark + "".join(json.dumps(r, ensure_ascii=False) + end for r in rows).encode())
    return file


def test_a_row_that_comes_again_counts_once_and_is_said(invoke, tmp_path):
    rows = [result("a/0.png"), result("a/1.png", correct=False), result("a/0.png"), result("a/0.png")]
    file = written(tmp_path / "merged.jsonl", rows)
    found = json.loads(invoke("summary", file, "--json")[0].stdout)
    assert found["tasks"]["single_object"]["images"] == 2
    assert found["prompt_weighted"]["mean"] == 0.5
    assert found["doubles"] == ["a/0.png", "a/0.png"]
    shown = invoke("summary", file)[0].stdout
    assert "Total images: 2" in shown
    assert "Rows that repeat an image's row, counted once: 2, first a/0.png" in shown


@pytest.mark.parametrize(
    "change", [{"correct": False}, {"metadata": "{}"}, {"details": "[]"}, {"detector": "x"}]
)
def test_two_results_of_one_image_that_differ_are_refused(invoke, tmp_path, change):
    file = written(
        tmp_path / "r.jsonl", [result("a/0.png"), result("b/0.png"), result("a/0.png") | change], "\n\n"
    )
    sentence = invoke("summary", file)[1]
    assert sentence == f"{file}, lines 1 and 5: two results of one image, a/0.png, that differ; keep one."


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_rows_are_the_same_however_the_file_is_written(tmp_path, end, mark):
    rows = [result("a\u2028b.png", prompt="\u732b"), result("b.png", correct=False)]
    file = written(tmp_path / "r.jsonl", rows, end, mark)
    assert folders.read_results(file).rows == rows
    folders.mend(file)
    assert file.read_bytes() == mark + "".join(json.dumps(r, ensure_ascii=False) + end for r in rows).encode()


def test_what_only_explains_may_be_missing_or_null(invoke, tmp_path):
    rows = [
        result("0.png", reason=None),
        {k: v for k, v in result("1.png", correct=False).items() if k not in ("reason", "details")},
    ]
    found = json.loads(invoke("summary", written(tmp_path / "r.jsonl", rows), "--json")[0].stdout)
    assert found["prompt_weighted"]["mean"] == 0.5
    assert found["failures"] == {"single_object": {"other": 1}}
    for key in ("filename", "tag", "correct", "metadata"):
        sentence = invoke("summary", written(tmp_path / "r.jsonl", [result("0.png") | {key: None}]))[1]
        assert f"r.jsonl, line 1: no GenEval result: '{key}' is not" in sentence
