"""Keys tell rows apart: each is of columns that its table has, in the order in which the tables are sorted."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from vhsbench.harness.store import keys
from vhsbench.harness.store.keys import CANDIDATE, CELL, COST, DRAW, IN_POOL, PIPELINE, POOL, SCORE
from vhsbench.harness.store.parquet import ORDER, SCHEMAS

ROOT = Path(__file__).parents[3]
ROWS = pd.DataFrame(
    [
        ("a", 1, "vhs", 1),
        ("a", 2, "vhs", 2),
        ("b", 1, "vhs", 3),
        ("a", 1, "mllm-clip", 4),
        ("a", 1, "vhs", 5),
    ],
    columns=[*PIPELINE, "value"],
)


@pytest.mark.parametrize("table", SCHEMAS)
def test_rows_are_sorted_by_columns_that_every_row_has(table):
    assert all(not SCHEMAS[table].field(column).nullable for column in ORDER[table])


def test_what_each_key_is_of():
    assert POOL == ["generator", "steps"]
    assert CANDIDATE == ["generator", "steps", "prompt_id", "seed", "index"]
    assert SCORE == ["generator", "steps", "verifier", "prompt_id", "seed", "index"]
    assert COST == ["generator", "steps", "verifier", "variant", "stage", "n", "batch"]
    assert set(POOL) < set(PIPELINE) < set(CELL) < set(COST)
    assert set(DRAW) < set(IN_POOL) < set(CANDIDATE) < set(SCORE)


def test_the_rows_of_a_pool_and_of_a_pipeline():
    assert keys.of_pool(ROWS, "a", 1)["value"].tolist() == [1, 4, 5]
    assert keys.of_pipeline(ROWS, "a", 1, "vhs")["value"].tolist() == [1, 5]
    assert keys.of_pool(ROWS, "c", 1).empty


def test_distinct_values_in_order_of_appearance():
    assert keys.distinct(ROWS, POOL) == [("a", 1), ("a", 2), ("b", 1)]
    assert keys.distinct(ROWS.assign(steps=ROWS["steps"].astype("int32")), POOL)[1][1].__class__ is int


def test_no_module_writes_a_key_by_hand():
    by_hand = re.compile(r'"generator", "steps"|"prompt_id", "seed"|\["generator"\] == .*\["steps"\] ==')
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("harness", "verifiers", "generators", "results", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if by_hand.search(line)
    ]
    mine = [line for line in found if line.startswith("harness/store/keys.py")]
    assert found == mine
    assert len(mine) == 3  # two keys and of_pool
