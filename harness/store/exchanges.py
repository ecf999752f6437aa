"""The table of exchanges: its schema, rows ↔ values, and tables that other tools wrote.

Other writers store strings as large strings or dictionaries, leave optional columns out, or use
nulls; `conformed_batch` makes one thing of all that, so that nothing behind it has to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from harness.core.tensors import Strings
from harness.core.traffic import Exchange

_STRING_MAP = pa.map_(pa.string(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("ts_ns", pa.int64(), nullable=False),
        pa.field("latency_ns", pa.int64(), nullable=False),
        pa.field("code", pa.int32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("request", pa.large_binary(), nullable=False),
        pa.field("response", pa.large_binary(), nullable=False),
        pa.field("metadata", _STRING_MAP, nullable=False),
        pa.field("context", _STRING_MAP, nullable=False),
        pa.field("trace_id", pa.string(), nullable=False),
    ]
)
"""One row an exchange; fields as in `core.traffic.Exchange`."""

OPTIONAL = ("metadata", "context", "trace_id")
"""Columns that a file may leave out."""


def batch_from_exchanges(exchanges: Sequence[Exchange]) -> pa.RecordBatch:
    """Exchanges as one Arrow batch of `SCHEMA`."""
    columns = []
    for f in SCHEMA:
        values = [getattr(e, f.name) for e in exchanges]
        if f.type == _STRING_MAP:
            values = [list(v.items()) for v in values]
        columns.append(pa.array(values, f.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def exchanges_from_batch(batch: pa.RecordBatch) -> list[Exchange]:
    """The rows of an Arrow batch of `SCHEMA` as values."""
    columns = [
        [dict(v) for v in column.to_pylist()] if f.type == _STRING_MAP else column.to_pylist()
        for f, column in zip(SCHEMA, batch.columns, strict=True)
    ]
    return [
        Exchange(**dict(zip(SCHEMA.names, row, strict=True))) for row in zip(*columns, strict=True)
    ]


def castable(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of another writer's type holds the same kind of values."""
    if pa.types.is_dictionary(given):
        given = given.value_type
    if given == wanted:
        return True
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(given))
    if pa.types.is_string(wanted):
        return bool(pa.types.is_large_string(given) or pa.types.is_string_view(given))
    if pa.types.is_large_binary(wanted):
        return bool(pa.types.is_binary(given) or pa.types.is_binary_view(given))
    return bool(pa.types.is_map(given)) and all(
        castable(part, pa.string()) for part in (given.key_type, given.item_type)
    )


def conformed_batch(batch: pa.RecordBatch, fields: Sequence[pa.Field]) -> pa.RecordBatch:
    """Casts a batch to these fields; missing columns and nulls become empty values.

    Raises:
      pyarrow.ArrowInvalid: values that do not fit, or strings that are not UTF-8.
    """
    columns = []
    for f in fields:
        if f.name in batch.schema.names:
            column = batch.column(f.name)
            if column.type != f.type:
                column = column.cast(f.type)
            if column.null_count:
                column = _without_nulls(column)
        else:
            column = _defaults(f.type, len(batch))
        columns.append(column)
    conformed = pa.RecordBatch.from_arrays(columns, schema=pa.schema(list(fields)))
    conformed.validate(full=True)  # Parquet does not promise that strings are UTF-8
    return conformed


def _without_nulls(column: pa.Array) -> pa.Array:
    defaults = _defaults(column.type, 1)[0].as_py()
    return pa.array([defaults if v is None else v for v in column.to_pylist()], column.type)


def _defaults(kind: pa.DataType, count: int) -> pa.Array:
    value: Any = 0
    if pa.types.is_string(kind):
        value = ""
    elif pa.types.is_large_binary(kind):
        value = b""
    elif pa.types.is_map(kind):
        value = []
    return pa.array([value] * count, kind)


def context_columns(maps: pa.Array) -> dict[str, Strings]:
    """A column of string maps as one string column per key.

    Args:
      maps: Arrow map<string, string>, n rows without nulls.

    Returns:
      Per key the values, shape (n,); "" where a row does not have the key. A key that a row has
      twice keeps the later value.
    """
    offsets = maps.offsets.to_numpy()
    first, last = int(offsets[0]), int(offsets[-1])
    owner = np.repeat(np.arange(len(maps)), np.diff(offsets))
    keys = maps.keys[first:last].dictionary_encode()
    values = maps.items[first:last].fill_null("").to_numpy(zero_copy_only=False)
    codes = keys.indices.to_numpy()
    columns: dict[str, Strings] = {}
    for code, key in enumerate(keys.dictionary.to_pylist()):
        column = np.full(len(maps), "", object)
        has_key = codes == code
        column[owner[has_key]] = values[has_key]
        columns[key] = column
    return columns
