"""Read foreign Parquet tables; their size is checked first."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.shown import first_line

ROWS = 1 << 25  # of a table: 33 million, three times the largest sweep there is
COLUMNS = 200
GROUPS = 100_000  # of rows, in a file
LATER = b"later"  # in the metadata of a field that files of earlier versions lack: empty there
BYTES = 8 << 30  # of a table's columns as the file declares them, and of its text once written out


def read_table(data: bytes, name: str, kind: str, schema: pa.Schema) -> pa.Table:
    """Read the columns of `schema` in a Parquet file's bytes, as its types; other columns are not read.

    Columns marked LATER may be missing. `name` names the file in errors, `kind` the table. Raises ReadError: damaged,
    too large, or other columns or types.
    """
    source = pa.BufferReader(data)
    try:
        with pq.ParquetFile(source) as file:
            _check_size(file.metadata, name)
            _check_columns(file.schema_arrow, schema, f"{name} is no {kind} table of this version")
            here = [field for field in schema if field.name in file.schema_arrow.names]
        texts = [field.name for field in here if pa.types.is_string(field.type)]
        # text stays a dictionary until its size is known: a few bytes can encode a long text in every row
        with pq.ParquetFile(source, read_dictionary=texts) as file:
            rows = file.read([field.name for field in here])
        _check_text(rows, texts, name)
    except ReadError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ReadError(f"{name} is damaged: {first_line(error)}.") from error
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise ReadError(f"{name} is no {kind} table of this version: {first_line(error)}.") from error


def _check_size(found: pq.FileMetaData, name: str) -> None:
    # the groups' own counts are what is read; the file's total may differ
    groups = [found.row_group(i) for i in range(min(found.num_row_groups, GROUPS + 1))]
    counts = {
        "rows": (max(found.num_rows, sum(max(g.num_rows, 0) for g in groups)), ROWS),
        "columns": (found.num_columns, COLUMNS),
        "groups of rows": (found.num_row_groups, GROUPS),
        "bytes of values": (sum(max(g.total_byte_size, 0) for g in groups), BYTES),
    }
    for what, (count, most) in counts.items():
        if count > most:
            raise ReadError(f"{name} says that it has {count:,} {what}; at most {most:,} are read.")


def _check_columns(found: pa.Schema, schema: pa.Schema, said: str) -> None:
    for field in schema:
        if found.get_field_index(field.name) < 0:
            if field.name not in found.names and LATER in (field.metadata or {}):
                continue
            raise ReadError(f"{said}: it does not have exactly one column '{field.name}'.")
        if pa.types.is_nested(found.field(field.name).type):
            raise ReadError(f"{said}: its column '{field.name}' is nested.")


def _check_text(rows: pa.Table, texts: Sequence[str], name: str) -> None:
    total = 0
    for text in texts:
        for chunk in rows[text].chunks:
            if pa.types.is_dictionary(chunk.type):
                total += _written_out(chunk)
    if total > BYTES:
        raise ReadError(f"{name} has {total:,} bytes of text; at most {BYTES:,} are read.")


def _written_out(chunk: pa.DictionaryArray) -> int:
    """Count the bytes of a column of text if each row had its own copy."""
    lengths = pc.binary_length(chunk.dictionary.cast(pa.large_string()))
    counts = pc.value_counts(chunk.indices.drop_null())
    return pc.sum(pc.multiply(lengths.take(counts.field("values")), counts.field("counts"))).as_py() or 0
