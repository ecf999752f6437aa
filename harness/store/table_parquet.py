"""Tables of inputs as .parquet: one column an input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.counted import counted
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
        start = 0
        for batch in parquet.iter_batches(PIECE_ROWS, use_threads=False):
            with _text_is_utf8(str(path), batch, start):
                piece = _piece(str(path), batch, names, specs, (parquet, start))
            start += len(batch)
            yield piece


def _piece(
    where: str,
    batch: pa.RecordBatch,
    names: Sequence[str],
    specs: Specs | None,
    counted_in: tuple[pq.ParquetFile, int],
) -> Piece:
    for name in names:
        _check_filled(where, name, _plain(batch.column(name)), *counted_in)
    inputs = {
        n: _column_values(where, n, batch.column(n), specs[n] if specs else None) for n in names
    }
    side = {n: batch.column(n).to_pylist() for n in batch.schema.names if n not in names}
    return Piece(count=len(batch), inputs=inputs, **side_columns(where, len(batch), side, names))


@contextmanager
def _text_is_utf8(where: str, batch: pa.RecordBatch, start: int) -> Iterator[None]:
    """Where the body cannot read a piece: says which row holds bytes that are no text, if one does."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            row = next((i for i, cell in enumerate(column) if not _is_utf8(cell)), None)
            if row is not None:
                raise TrafficError(
                    where,
                    f"column '{name}' holds bytes that are no UTF-8 text, in row {start + row:,} (from 0)",
                    "Write its text in UTF-8: decode it from the encoding it is in before it is written.",
                ) from None
        raise


def _is_utf8(cell: pa.Scalar) -> bool:
    try:
        cell.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _column_values(
    where: str, name: str, column: pa.Array, spec: TensorSpec | None
) -> Array | list[Array]:
    column = _plain(column)
    kind = column.type
    inner, listed = _innermost(kind), _is_listed(kind)
    if not (
        _is_text(inner)
        or pa.types.is_boolean(inner)
        or pa.types.is_integer(inner)
        or _is_float(inner)
        or (listed and pa.types.is_null(inner))  # lists without a value
    ):
        raise TrafficError(
            where,
            f"column '{name}' holds {kind}",
            "Give numbers, booleans, strings or lists of them.",
        )
    if listed:
        return _listed(where, name, column, spec)
    values: Array = column.to_numpy(zero_copy_only=False)
    if spec is None:
        return values
    if is_flat(values.shape, spec):
        values = values[:, np.newaxis]
    check_shape(where, name, values.shape[1:], spec)
    return cast_lossless(where, name, values, spec.datatype)


def _check_filled(
    where: str, name: str, column: pa.Array, parquet: pq.ParquetFile, start: int
) -> None:
    """Refuses empty cells that no value of the column's type stands for.

    Args:
      where: the file.
      name: the column.
      column: a piece of it.
      parquet: what all of it is counted in.
      start: of the piece.

    Raises:
      TrafficError: with their number and the first one's row.
    """
    kind = _innermost(column.type)
    if not (_is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        return
    if not _empty(column):
        return
    row = start + next(i for i, cell in enumerate(column.to_pylist()) if _has_gap(cell))
    pieces = parquet.iter_batches(PIECE_ROWS, columns=[name], use_threads=False)
    count = sum(_empty(_plain(piece.column(0))) for piece in pieces)
    raise TrafficError(
        where,
        f"column '{name}' has {counted(count, 'empty value')}, {'the first ' if count > 1 else ''}in row {row:,} (from 0)",
        "Fill them; only float columns have a value (NaN) for missing.",
    )


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_listed(kind: pa.DataType) -> bool:
    known = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_so(kind) for is_so in known)


def _innermost(kind: pa.DataType) -> pa.DataType:
    inner = _is_listed(kind) or pa.types.is_dictionary(kind)
    return _innermost(kind.value_type) if inner else kind


def _empty(column: pa.Array) -> int:
    """Empty cells, those in lists, too."""
    inside = _empty(column.flatten()) if _is_listed(column.type) else 0
    return int(column.null_count) + inside


def _has_gap(cell: object) -> bool:
    return any(map(_has_gap, cell)) if isinstance(cell, list) else cell is None


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _listed(
    where: str, name: str, column: pa.Array, spec: TensorSpec | None
) -> Array | list[Array]:
    """List columns: a row with trailing dimensions, or several rows, as the input declares."""
    inner = _innermost(column.type)
    own = "BYTES" if _is_text(inner) else None
    if own is None:
        dtype = np.dtype(inner.to_pandas_dtype())
        own = next((k for k, v in NUMPY_DTYPES.items() if v == dtype), "FP64")
    declared = spec or TensorSpec(name=name, datatype=own, shape=(None,) * _depth(column.type))
    arrays = nested(where, name, column.to_pylist(), replace(declared, datatype=own))
    if isinstance(arrays, list):
        return [cast_lossless(where, name, a, declared.datatype) for a in arrays]
    return cast_lossless(where, name, arrays, declared.datatype)


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if hasattr(kind, "value_type") else 0
