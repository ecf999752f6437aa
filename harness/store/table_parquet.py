"""Tables of inputs as .parquet: one column an input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError
from harness.core.tensors import NUMPY_DTYPES, Array, TensorSpec
from harness.store.casting import cast_lossless
from harness.store.files import damage_is_a_traffic_error
from harness.store.table_pieces import (
    PIECE_ROWS,
    Piece,
    Specs,
    check_names,
    check_shape,
    is_flat,
    nested,
    side_columns,
)


def parquet_pieces(path: Path, specs: Specs | None) -> Iterator[Piece]:
    """The table in pieces; see `table_files.pieces`."""
    with (
        damage_is_a_traffic_error(str(path), "Parquet"),
        pq.ParquetFile(path, page_checksum_verification=True) as parquet,
    ):
        names = check_names(str(path), parquet.schema_arrow.names, specs)
        for batch in parquet.iter_batches(PIECE_ROWS, use_threads=False):
            inputs = {
                n: _column_values(str(path), n, batch.column(n), specs[n] if specs else None)
                for n in names
            }
            side = {n: batch.column(n).to_pylist() for n in batch.schema.names if n not in names}
            yield Piece(
                count=len(batch), inputs=inputs, **side_columns(str(path), len(batch), side, names)
            )


def _column_values(
    where: str, name: str, column: pa.Array, spec: TensorSpec | None
) -> Array | list[Array]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _listed(where, name, column, spec)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_boolean(kind) or pa.types.is_integer(kind) or _is_float(kind)):
        raise TrafficError(
            where,
            f"column '{name}' holds {kind}",
            "Give numbers, booleans, strings or lists of them.",
        )
    if column.null_count and not _is_float(kind):
        raise TrafficError(
            where,
            f"column '{name}' has {column.null_count} empty values",
            "Fill them; only float columns have a value (NaN) for missing.",
        )
    values: Array = column.to_numpy(zero_copy_only=False)
    if spec is None:
        return values
    if is_flat(values.shape, spec):
        values = values[:, np.newaxis]
    check_shape(where, name, values.shape[1:], spec)
    return cast_lossless(where, name, values, spec.datatype)


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))


def _listed(
    where: str, name: str, column: pa.Array, spec: TensorSpec | None
) -> Array | list[Array]:
    """List columns: a row with trailing dimensions, or several rows, as the input declares."""
    inner = column.type
    while hasattr(inner, "value_type"):
        inner = inner.value_type
    own = "BYTES" if pa.types.is_string(inner) or pa.types.is_large_string(inner) else None
    if own is None:
        dtype = np.dtype(inner.to_pandas_dtype())
        own = next((k for k, v in NUMPY_DTYPES.items() if v == dtype), "FP64")
    declared = spec or TensorSpec(name=name, datatype=own, shape=(None,) * _depth(column.type))
    arrays = nested(
        where, name, column.to_pylist(), TensorSpec(name=name, datatype=own, shape=declared.shape)
    )
    if isinstance(arrays, list):
        return [cast_lossless(where, name, a, declared.datatype) for a in arrays]
    return cast_lossless(where, name, arrays, declared.datatype)


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if hasattr(kind, "value_type") else 0
