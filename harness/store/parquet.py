"""The schemas of a run's tables, the order of their rows, and their encoding as Parquet with optional provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.common.tables import LATER, read_table
from vhsbench.harness.common.text import parse_json
from vhsbench.harness.store.keys import CANDIDATE, COST, INCIDENT, SCORE, VERDICT
from vhsbench.verifiers.checks import outside_0_1


class StoreError(VhsbenchError):
    """A run directory that cannot be used; the message is one sentence for a user."""


def _known(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Declare columns that have a value in every row."""
    return [pa.field(name, kind, nullable=False) for name in names]


def _unknown(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Declare columns that are empty where a value is unknown."""
    return [pa.field(name, kind) for name in names]


def _later(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Return the columns that tables of earlier versions lack: unknown there."""
    return [pa.field(name, kind, metadata={LATER: b"yes"}) for name in names]


_S, _I = pa.string(), pa.int32()
_OF_CANDIDATE = [
    *_known(_S, "generator"), *_known(_I, "steps", "prompt_id"), *_known(pa.int64(), "seed"),
    *_known(_I, "index"),
]  # fmt: skip
SCHEMAS: dict[str, pa.Schema] = {
    "candidates": pa.schema(
        [*_OF_CANDIDATE, *_known(_S, "tag"), *_known(pa.bool_(), "correct"), *_known(_S, "reason")]
    ),
    "scores": pa.schema(
        [*_OF_CANDIDATE, *_known(_S, "verifier"), *_unknown(pa.float32(), "p_yes", "p_no"),
         *_known(pa.float32(), "score")]
    ),
    "verdicts": pa.schema(  # picture: the digest of the pixels that were judged
        [*_OF_CANDIDATE, *_known(_S, "judge"), *_known(pa.float32(), "value"), *_unknown(pa.bool_(), "correct"),
         *_known(_S, "reason", "picture")]
    ),
    "incidents": pa.schema(
        [*_known(_S, "generator"), *_known(_I, "steps"), *_known(pa.int64(), "seed"),
         *_known(_I, "prompt_id"), *_known(_S, "kind"), *_known(_I, "batch"), *_known(_S, "reason")]
    ),
    "costs": pa.schema(
        [*_known(_S, "generator"), *_known(_I, "steps"), *_known(_S, "verifier", "variant", "stage"),
         *_known(_I, "n", "batch", "repeat"),
         *_unknown(pa.float64(), "wall_ms", "event_ms", "phases_percent", "tflop", "moved_gb",
                   "peak_vram_gb", "peak_reserved_gb", "nvml_gb", "peak_rss_gb", "energy_j"),
         *_unknown(_S, "device"), *_known(_S, "status", "note"),
         *_later(_I, "visit"), *_later(pa.float64(), "others_percent"), *_later(_S, "block")]
    ),
}  # fmt: skip
ORDER = {
    "candidates": CANDIDATE,
    "scores": SCORE,
    "verdicts": VERDICT,
    "incidents": INCIDENT,
    "costs": [*COST, "repeat"],
}
_ABOUT = b"vhsbench"  # the key of Parquet's metadata that holds a shard's provenance


def encode(rows: pd.DataFrame, table: str, about: Mapping[str, Any] | None = None) -> bytes:
    """Encode a table, always to the same bytes for the same rows. Raises StoreError if the rows do not fit SCHEMAS."""
    schema = SCHEMAS[table]
    later = [field.name for field in schema if LATER in (field.metadata or {})]
    rows = rows.assign(**{name: None for name in later if name not in rows})
    if odd := sorted({*schema.names} ^ {*map(str, rows.columns)}):
        raise StoreError(f"rows for {table} lack or add the column '{odd[0]}'.")
    if gaps := [f.name for f in schema if not f.nullable and rows[f.name].isna().any()]:
        raise StoreError(f"rows for {table} have no value in '{gaps[0]}', which every row must have.")
    try:
        data = pa.Table.from_pandas(rows[schema.names], schema, preserve_index=False)
    except pa.ArrowException as error:
        raise StoreError(f"rows for {table} are of wrong types: {error}.") from error
    _check_numbers(data, table, f"rows for {table}")
    if about is not None:
        data = data.replace_schema_metadata({_ABOUT: json.dumps(about, sort_keys=True).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink)
    return bytes(sink.getvalue())


def decode(data: bytes, name: str, table: str) -> pa.Table:
    """Decode a table's bytes; `name` is their file in errors. Raises StoreError."""
    with read_errors_as(StoreError):
        rows = read_table(data, name, table, SCHEMAS[table])
    _check_numbers(rows, table, name)
    return rows


def _check_numbers(rows: pa.Table, table: str, where: str) -> None:
    """Refuse NaN and infinity in columns that must have a value, as neither can be ranked, and invalid probabilities."""
    for field in SCHEMAS[table]:
        if field.name in ("p_yes", "p_no"):
            odd, rule = outside_0_1(rows[field.name].to_numpy()), "a probability"  # NaN where it is unknown
        elif field.name == "value":
            value = rows[field.name].to_numpy()
            odd, rule = ~((value >= 0) & (value <= 1)), "from 0 to 1"
        elif pa.types.is_floating(field.type) and not field.nullable:
            odd, rule = ~np.isfinite(rows[field.name].to_numpy()), "a finite number"
        else:
            continue
        if odd.any():
            row = int(odd.argmax())
            of = ", ".join(f"{key} {rows[key][row]}" for key in ORDER[table])
            raise StoreError(f"{where}: the {field.name} of {of} is {rows[field.name][row]}, not {rule}.")


def about(data: bytes) -> dict[str, Any]:
    """Read a table's provenance from its bytes; empty if it has none. Raises ValueError for bytes that are not Parquet."""
    try:
        found = (pq.read_schema(pa.BufferReader(data)).metadata or {}).get(_ABOUT)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(first_line(error)) from error
    said = parse_json(found.decode(), "a shard's provenance") if found else {}
    if not isinstance(said, dict):
        raise ValueError("a shard's provenance is not a JSON object")
    return said


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
