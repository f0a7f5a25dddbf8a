"""Finished work can always be shown: a whole report of runs in which something is one, none, all or odd."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pandas as pd
import pytest
from rich.console import Console

from vhsbench.harness.commands.listing import show_summary
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.report.build import build
from vhsbench.harness.store.tables import RunStore, StoreError

ODD = "=1 a $5 note and a $6 note, \\frac{1}{ \x1b[31mred\x00\u202e 一只猫 \U0001f600"
SHOWN = "=1 a $5 note and a $6 note, \\frac{1}{ \\x1b[31mred\\x00\\u202e 一只猫 \U0001f600"
ONE = [{"name": "vhs"}]
RUNS = {
    "one prompt": {"prompts": 1, "verifiers": ONE},
    "one candidate": {"pool": 1, "verifiers": ONE},
    "one prompt of one candidate": {"prompts": 1, "pool": 1, "verifiers": ONE},
    "all right": {"correct": 1.0, "verifiers": ONE},
    "all wrong": {"correct": 0.0, "gallery_prompts": 0},
    "all tied": {"tied": True, "gallery_prompts": 0},
    "no verifier": {"verifiers": [], "generators": [{"name": "nano", "label": "-2+3"}]},
    "a budget that affords nothing": {"budgets_ms": [1.0, 150.0], "verifiers": ONE},
    "odd text": {"marked": ODD, "verifiers": ONE},
}


@pytest.fixture(scope="module", params=RUNS)
def shown(request, make_run, tmp_path_factory, undrawn):
    """(what it is, the summary, where the report is, what the console shows)."""
    folder = tmp_path_factory.mktemp("run")
    run = make_run(folder / "run", **RUNS[request.param])
    with nullcontext() if request.param == "odd text" else undrawn(but="png"):  # fonts are the text's alone
        summary = build(run, out=folder / "out")
    screen = Console(width=200)
    with screen.capture() as said:
        show_summary(summary, screen)
    return request.param, summary, folder / "out", said.get()


def test_a_whole_report(shown):
    what, summary, out, _ = shown
    json.dumps(summary, allow_nan=False)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    verifiers = {} if what == "no verifier" else {"VHS"}
    assert all(name in page for name in verifiers)
    pictures = {file.stem for file in (out / "figures").glob("*.png")}
    assert "latency_breakdown" in pictures or what == "no verifier"
    for kind in ("pdf", "csv"):
        assert {file.stem for file in (out / "figures").glob(f"*.{kind}")} == pictures
    assert not list(out.rglob("*.tmp"))


def test_accuracies_are_what_they_must_be(shown):
    what, summary, _, _ = shown
    known = [row["accuracy"] for row in summary["at_n"]]
    if what == "all right":
        assert set(known) == {100.0}
    if what == "all wrong":
        assert set(known) == {0.0}
    if what == "all tied":
        by = {row["verifier"]: row["accuracy"] for row in summary["at_n"]}
        assert by["vhs"] == by["mllm-clip"] == pytest.approx(by["random"])


def test_what_is_unknown_is_said(shown):
    what, summary, _, said = shown
    assert "None" not in said
    assert "nan" not in said.split()
    if what in ("all right", "all wrong"):
        assert {row["auc"] for row in summary["auc"]} == {None}
        assert f"AUC of vhs: unknown, as {what.replace('all', 'all candidates are')}" in said
    if what == "a budget that affords nothing":
        assert "below one candidate" in said
        assert [r["best_of_n"] for r in summary["budgets"] if r["budget_ms"] == 1.0] == [None] * 2


def test_texts_are_only_text(shown, read_data):
    what, _, out, _ = shown
    if what == "odd text":
        prompts = read_data(out / "report.html")["prompts"]
        assert any(SHOWN in prompt["prompt"] for prompt in prompts)
        files = [out / "report.html", out / "figures/gallery.csv"]
        texts = [file.read_text(encoding="utf-8") for file in files]
        assert SHOWN in texts[1]
        for text in texts:
            assert not {"\x1b", "\x00", "\u202e"} & {*text}


def test_tables_hold_no_formula(shown):
    what, _, out, _ = shown
    if what == "no verifier":
        cells = pd.read_csv(out / "tables/curves.csv", dtype=str)["generator"]
        assert set(cells) == {"'-2+3"}


def test_a_run_whose_prompts_all_failed_says_why(tmp_path):
    config = RunConfig.model_validate({"generators": [{"name": "nano"}]})
    with RunStore(tmp_path / "run", config.model_dump(mode="json")) as store:
        store.write_prompts([{"tag": "counting", "prompt": "two cats"}])
        store.consolidate()
        failed = {
            "generator": "nano",
            "seed": 0,
            "prompt_id": 0,
            "reason": "RuntimeError: the decoder is broken",
        }
        store.update(status="complete", failed_prompts=[failed])
    with pytest.raises(StoreError, match="no candidates to report on: RuntimeError: the decoder is broken"):
        build(tmp_path / "run")
