"""Tables of others: what a small file can claim to be is looked at before it is read."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.harness.common import tables
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.tables import read_table

SCHEMA = pa.schema([pa.field("word", pa.string(), nullable=False), pa.field("count", pa.int32())])


def saved(*tables: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, tables[0].schema, **options) as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def rows(count: int, word: str = "a") -> pa.Table:
    return pa.table({"word": [word] * count, "count": pa.nulls(count, pa.int32())}, SCHEMA)


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.integers(-9, 9)), max_size=30), st.booleans())
@settings(max_examples=30)
def test_what_was_written_is_read_in_its_types(found, dictionary):
    table = pa.table({"word": [w for w, _ in found], "count": [c for _, c in found]}, SCHEMA)
    data = saved(table.append_column("more", table["word"]), use_dictionary=dictionary)
    read = read_table(data, "x", "words", SCHEMA)
    assert read.equals(table)
    assert read.schema == SCHEMA


@pytest.mark.parametrize("kind", [pa.string(), pa.int32()])
def test_a_column_that_came_later_is_empty_where_a_file_lacks_it(kind):
    field = pa.field("more", kind, metadata={tables.LATER: b"yes"})
    read = read_table(saved(rows(2)), "x", "words", SCHEMA.append(field))
    assert read.schema.names == ["word", "count", "more"]
    assert read["more"].to_pylist() == [None, None]


def test_a_small_file_of_many_rows_is_refused_unread():
    part = rows(1_000_000)
    data = saved(*[part] * 34)
    assert len(data) < 200_000
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(ReadError, match=r"^t\.parquet says that it has 34,000,000 rows; at most 33,554,432"):
        read_table(data, "t.parquet", "words", SCHEMA)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert read_table(saved(*[part] * 10), "t", "words", SCHEMA).num_rows == 10_000_000


def test_a_long_text_in_each_row_is_refused_before_it_is_written_out(monkeypatch):
    monkeypatch.setattr(tables, "BYTES", 1 << 24)
    data = saved(rows(20_000, "x" * 1000))
    assert len(data) < 10_000
    with pytest.raises(ReadError, match=r"^x has 20,000,000 bytes of text; at most 16,777,216 are read\.$"):
        read_table(data, "x", "words", SCHEMA)


def test_declared_sizes_are_bounded(monkeypatch):
    monkeypatch.setattr(tables, "COLUMNS", 10)
    wide = pa.table({f"c{i}": [1] for i in range(11)})
    with pytest.raises(ReadError, match="says that it has 11 columns; at most 10 are read"):
        read_table(saved(wide), "x", "words", SCHEMA)
    monkeypatch.setattr(tables, "GROUPS", 3)
    with pytest.raises(ReadError, match="says that it has 4 groups of rows; at most 3"):
        read_table(saved(*[rows(1)] * 4), "x", "words", SCHEMA)
    monkeypatch.setattr(tables, "BYTES", 5000)
    with pytest.raises(ReadError, match=r"says that it has \d,\d+ bytes of values; at most 5,000"):
        read_table(saved(rows(1, "x" * 6000), compression="zstd"), "x", "words", SCHEMA)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"word": ["a"]}), "it does not have exactly one column 'count'"),
        (
            pa.table([["a"], ["b"], [1]], ["word", "word", "count"]),
            "it does not have exactly one column 'word'",
        ),
        (pa.table({"word": [["a"]], "count": [1]}), "its column 'word' is nested"),
        (pa.table({"word": ["a"], "count": [1 << 40]}), "Integer value 1099511627776 not in range"),
        (pa.table({"word": ["a"], "count": ["one"]}), "Failed to parse string"),
        (pa.table({"word": [None], "count": [1]}), "'word'"),
    ],
)
def test_other_columns_are_told(table, said):
    with pytest.raises(ReadError, match=f"^x is no words table of this version: .*{said}"):
        read_table(saved(table), "x", "words", SCHEMA)


def test_every_cut_and_many_a_flip_is_a_table_or_a_sentence():
    data = saved(rows(50, "word"))
    changed = [data[:end] for end in range(0, len(data), 7)]
    for at in range(0, len(data), 3):
        changed += [data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] for bit in (1, 0x80)]
    said = []
    for one in changed:
        try:
            read_table(one, "x", "words", SCHEMA)
        except ReadError as error:
            said.append(str(error))
    assert len(said) > len(data) // 7
    assert all(s.startswith("x ") and "\n" not in s for s in said)
