"""The recipes of docs/howto/tables.md give the right numbers on tables small enough to count by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from vhsbench.harness.store.parquet import encode

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "tables.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# of each prompt: a candidate's verdict, then what each verifier thinks of it; the fifth is never among the first four
CANDIDATES = {
    0: [(True, 0.1, 0.2), (False, 0.9, 0.1), (False, 0.2, 0.1), (False, 0.3, 0.1), (True, 1.0, 1.0)],
    1: [(False, 0.1, 0.2), (True, 0.8, 0.3), (True, 0.2, 0.1), (False, 0.3, 0.1), (False, 0.0, 0.5)],
}
TAGS = {0: "colors", 1: "counting"}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "nano"
    (folder / "tables").mkdir(parents=True)
    candidates, scores = [], []
    for prompt, rows in CANDIDATES.items():
        for index, (correct, *given) in enumerate(rows):
            key = {"generator": "nano", "steps": 1, "prompt_id": prompt, "seed": 0, "index": index}
            candidates.append(
                {**key, "tag": TAGS[prompt], "correct": correct, "reason": "" if correct else "none found"}
            )
            scores += [
                {**key, "verifier": verifier, "p_yes": None, "p_no": None, "score": score}
                for verifier, score in zip(("vhs", "mllm-clip"), given, strict=True)
            ]
    about = {"generator": "nano", "steps": 1, "variant": "", "n": 1, "batch": 1, "device": "cpu", "note": ""}
    costs = [
        {**about, "verifier": verifier, "stage": stage, "repeat": repeat, "wall_ms": ms, "status": status}
        for verifier, stage, status, times in (
            ("", "head", "ok", (4, 2, 9)), ("vhs", "score", "ok", (1, 3)), ("vhs", "score", "tainted", (99,)),
        )
        for repeat, ms in enumerate(times)
    ]  # fmt: skip
    unknown = ["event_ms", "phases_percent", "tflop", "moved_gb", "peak_vram_gb", "peak_reserved_gb", "nvml_gb",
               "peak_rss_gb", "energy_j"]  # fmt: skip
    tables = {
        "candidates": pd.DataFrame(candidates),
        "scores": pd.DataFrame(scores),
        "costs": pd.DataFrame(costs).assign(**dict.fromkeys(unknown)),
    }
    for name, rows in tables.items():
        (folder / f"{name}.parquet").write_bytes(encode(rows, name))
    (folder / "prompts.jsonl").write_text('{"prompt": "a red ring"}\n{"prompt": "two rings"}\n')
    (folder / "tables" / "budgets.csv").write_text("budget_ms,verifier,overall\n76.5,vhs,81.25\n")
    return folder


def blocks(language: str) -> list[str]:
    return [code for kind, code in _BLOCK.findall(PAGE.read_text(encoding="utf-8")) if kind == language]


def test_the_recipes_for_pandas(run, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names: dict[str, object] = {"__name__": "recipes"}
    for code in blocks("python"):
        exec(code, names)
    assert names["by_task"].to_dict("index") == {
        "vhs": {"colors": 0, "counting": 1},
        "mllm-clip": {"colors": 1, "counting": 1},
    }
    assert [*names["prompts"].loc[names["lost"].index.get_level_values("prompt_id")]] == ["a red ring"]
    assert "a red ring" in capsys.readouterr().out
    assert names["medians"].to_dict() == {("", "head"): 4, ("vhs", "score"): 2}
    tracked = EventAccumulator("tracked").Reload()
    assert tracked.Scalars("overall/vhs/76.5ms")[0].value == 81.25


def test_the_recipes_for_duckdb(run):
    duckdb = pytest.importorskip("duckdb")
    picks, mistakes, runs = (duckdb.sql(code).fetchall() for code in blocks("sql"))
    assert picks == [
        ("mllm-clip", "colors", 1, 1), ("mllm-clip", "counting", 1, 1),
        ("vhs", "colors", 0, 1), ("vhs", "counting", 1, 1),
    ]  # fmt: skip
    assert mistakes[0] == ("vhs", 0, 0, 1, pytest.approx(0.9), "none found")
    assert len(mistakes) == 2 * 6
    assert runs == [("nano", "nano", 1, 0.4, 10)]
