"""Tables as bytes: numbers that no row may lack are finite, when written and when read."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vhsbench.harness.store.parquet import SCHEMAS, StoreError, decode, encode


def rows(second: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "generator": "g", "steps": 1, "prompt_id": 3, "seed": 0, "index": [0, 1], "verifier": "v",
            "p_yes": None, "p_no": None, "score": [0.5, second],
        }
    )  # fmt: skip


def written_by_others(second: float) -> bytes:
    frame = rows(0.25)
    table = pa.Table.from_pandas(frame[SCHEMAS["scores"].names], SCHEMAS["scores"], preserve_index=False)
    score = pa.array([0.5, second], pa.float32())  # from pandas, NaN would be a null
    table = table.set_column(table.schema.get_field_index("score"), SCHEMAS["scores"].field("score"), score)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def test_finite_scores_of_unknown_probabilities_are_kept():
    assert decode(encode(rows(0.25), "scores"), "f", "scores")["score"].to_pylist() == [0.5, 0.25]
    assert decode(written_by_others(0.25), "f", "scores")["score"].to_pylist() == [0.5, 0.25]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_neither_written_nor_read(value):
    with pytest.raises(StoreError, match="rows for scores"):
        encode(rows(value), "scores")
    with pytest.raises(StoreError) as error:
        decode(written_by_others(value), "run/scores.parquet", "scores")
    assert str(error.value) == (
        "run/scores.parquet: the score of generator g, steps 1, verifier v, prompt_id 3, seed 0, index 1 is "
        f"{value}, not a finite number."
    )


@pytest.mark.parametrize("value", [-0.5, 1.25, float("inf")])
def test_a_probability_that_is_none_is_neither_written_nor_read(value):
    with pytest.raises(StoreError) as error:
        encode(rows(0.25).assign(p_yes=[0.5, value]), "scores")
    assert str(error.value) == (
        "rows for scores: the p_yes of generator g, steps 1, verifier v, prompt_id 3, seed 0, index 1 is "
        f"{value}, not a probability."
    )
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pandas(
        rows(0.25).assign(p_no=[value, None])[SCHEMAS["scores"].names], SCHEMAS["scores"]
    )
    pq.write_table(table, sink)
    with pytest.raises(StoreError, match=f"f: the p_no of .*, index 0 is {value}, not a probability"):
        decode(bytes(sink.getvalue()), "f", "scores")
