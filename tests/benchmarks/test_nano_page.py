"""docs/nano.md says what results/nano measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from nano_page import PAGE, TABLES, arms, renewed  # noqa: E402

sys.path.pop(0)


def test_the_pages_tables_are_those_of_the_study():
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in TABLES if f"<!-- {name}: results/nano -->" in page] == [
        "equal_time", "best_of_n", "auc", "profile",
    ]  # fmt: skip
    assert renewed(page, ROOT, TABLES) == page


def test_a_number_by_hand_is_put_right():
    page = PAGE.read_text(encoding="utf-8")
    value = f"{pd.read_csv(ROOT / 'results/nano/profile.csv')['percent'].iloc[0]:.1f}"
    head, rest = page.split("<!-- profile: results/nano -->")
    wrong = f"{head}<!-- profile: results/nano -->{rest.replace(value, '12.3', 1)}"
    assert renewed(wrong, ROOT, TABLES) == page


def test_arms_side_by_side(tmp_path):
    """An arm with one verifier has no differences, and its other cells are empty."""
    pd.DataFrame(
        [{"training": t, "budget": k, "a": "vhs", "n_a": 4, "b": "mllm-clip", "n_b": 2, "difference": d * k,
          "low": d * k - 0.25, "high": d * k + 0.25}
         for t, d in (("base", 1.0), ("new-llm", -2.0)) for k in (1, 2, 3)]
    ).to_csv(tmp_path / "equal_time.csv")  # fmt: skip
    pd.DataFrame(
        [{"training": "base", "verifier": v, "task": "all", "within_prompts": w}
         for v, w in (("vhs", 0.9), ("mllm-clip", 0.8), ("mllm-ae", 0.7))]
        + [{"training": "new-llm", "verifier": "vhs", "task": "all", "within_prompts": 0.6}]
    ).to_csv(tmp_path / "auc.csv")  # fmt: skip
    pd.DataFrame(
        [{"training": t, "task": "overall", "percent": 71.26} for t in ("base", "new-llm")]
    ).to_csv(tmp_path / "profile.csv")  # fmt: skip
    _, _, base, changed = arms(tmp_path).splitlines()
    assert (
        base
        == "| base | 71.3 | 0.900 | 0.800 | 0.700 | +1.0 [0.8, 1.2] / +2.0 [1.8, 2.2] / +3.0 [2.8, 3.2] |"
    )
    assert changed.startswith("| new-llm | 71.3 | 0.600 |  |  | -2.0 [-2.2, -1.8] / ")
