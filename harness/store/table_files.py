"""Tables of inputs: .npz, .parquet and .jsonl, read in pieces of the same form.

Besides one array or column per input a table may have `ts_ns` (request time), `request_id`,
`cx:<name>` (context columns to slice by) and `feature:<name>` (what the serving side logged of a feature,
kept as context, too).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError, nearest
from harness.core.tensors import NUMPY_DTYPES, Array, Ints, Tensors, TensorSpec
from harness.core.traffic import LOGGED
from harness.store.blocks import CONTEXT
from harness.store.casting import RaggedError, array_from_json, cast_lossless, datatype_of_json
from harness.store.files import damage_is_a_traffic_error
from harness.store.plain_npz import read_plain_npz

TIME, ID = "ts_ns", "request_id"
_SIDE = (CONTEXT, LOGGED)
PIECE_ROWS = 1024
_SHOWN = 40
"""Characters of a refused value that the message shows."""
_ARCHIVE, _BARE = b"PK", b"\x93N"
"""First bytes of what np.savez and np.save write."""

Specs = Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some requests of a table."""

    count: int
    """Requests."""
    inputs: dict[str, Array | list[Array]]
    """Per input (count, *trailing) when every request is one row, else per request (rows, *trailing)."""
    ts_ns: Ints | None
    """Shape (count,); None = the table has no times."""
    request_id: list[str] | None
    """None = the table has no ids."""
    context: dict[str, list[str]]
    """Context columns."""


def pieces(path: Path, specs: Specs | None) -> Iterator[Piece]:
    """Reads a table by its suffix.

    Args:
      path: a .npz, .parquet or .jsonl file.
      specs: the model's inputs by name; None takes the columns as they are.

    Raises:
      TrafficError: damaged file, or columns that are not the model's inputs; the column is named.
    """
    match path.suffix:
        case ".npz":
            yield from _npz(path, specs)
        case ".parquet":
            yield from _parquet(path, specs)
        case _:
            yield from _jsonl(path, specs)


def _check_names(where: str, names: Sequence[str], specs: Specs | None) -> list[str]:
    """The input columns among `names`; with specs exactly the model's inputs."""
    inputs = [
        n for n in names if (specs and n in specs) or not (n in {TIME, ID} or n.startswith(_SIDE))
    ]
    if not inputs:
        raise TrafficError(where, "no input columns", "Give one array or column per model input.")
    for name in inputs:
        if specs is not None and name not in specs:
            raise TrafficError(
                where,
                f"column '{name}' is no input of the model ({nearest(name, specs)})",
                f"Rename it, drop it, or keep it as context: {CONTEXT}{name}.",
            )
    for name in specs or ():
        if name not in inputs:
            raise TrafficError(
                where, f"no column for the model's input '{name}'", f"Columns: {', '.join(names)}."
            )
    return inputs


def _side_columns(
    where: str, count: int, columns: Mapping[str, Sequence[Any]], inputs: Sequence[str]
) -> dict[str, Any]:
    """Times, ids and context of a piece, as `Piece` holds them."""
    side = {n: v for n, v in columns.items() if n not in inputs}
    for name, values in side.items():
        if len(values) != count:
            raise TrafficError(
                where,
                f"column '{name}' has {len(values)} values for {count} requests",
                "Give one value a request.",
            )
    times = side.get(TIME)
    if times is not None and not all(isinstance(t, int) for t in times):
        raise TrafficError(
            where, f"column '{TIME}' is not all integers", "Give nanoseconds since the epoch, UTC."
        )
    return {
        "ts_ns": None if times is None else np.array(times, np.int64),
        "request_id": None if ID not in side else [_text(v) for v in side[ID]],
        "context": {
            n.removeprefix(CONTEXT): [_text(_single(where, n, v)) for v in values]
            for n, values in side.items()
            if n.startswith(_SIDE)
        },
    }


def _single(where: str, name: str, value: object) -> object:
    """A side column's value of a request; rows of one value, as of shape (N, 1), are that value."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | dict):
        raise TrafficError(
            where,
            f"column '{name}' holds {type(value).__name__}s, such as {str(value)[:_SHOWN]}",
            "Give one value a request: a number or a text.",
        )
    return value


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _npz(path: Path, specs: Specs | None) -> Iterator[Piece]:
    arrays = _npz_arrays(path)
    names = _check_names(str(path), list(arrays), specs)
    inputs = {n: arrays[n] for n in names}
    if specs is not None:
        inputs = {n: cast_lossless(str(path), n, a, specs[n].datatype) for n, a in inputs.items()}
    inputs = _one_request_a_row(str(path), inputs, specs)
    count = len(next(iter(inputs.values())))
    side = {n: a.tolist() for n, a in arrays.items() if n not in names}
    for at in range(0, count, PIECE_ROWS):
        cut = slice(at, at + PIECE_ROWS)
        size = len(range(*cut.indices(count)))
        here = {n: v[cut] if isinstance(v, list) else [v] for n, v in side.items()}
        yield Piece(
            count=size,
            inputs={n: a[cut] for n, a in inputs.items()},
            **_side_columns(str(path), size, here, names),
        )


def _npz_arrays(path: Path) -> Tensors:
    _check_is_archive(path)
    try:
        arrays = read_plain_npz(path, own=True)
    except MemoryError:
        raise TrafficError(
            str(path),
            "does not fit into memory",
            "Give its requests as Parquet, or in several files.",
        ) from None
    except ValueError as error:
        if str(error).endswith("numpy type object"):
            raise TrafficError(
                str(path),
                "an array holds Python objects, which are not read from files",
                "Save strings as a U array: values.astype(str).",
            ) from None
        raise TrafficError(
            str(path), f"cannot be read as .npz: {error}",
            "Write it with np.savez: numbers, booleans or strings (U), one array an input.",
        ) from None  # fmt: skip
    for name, values in arrays.items():
        if values.dtype.kind == "U":
            arrays[name] = values.astype(object)
        elif values.dtype not in NUMPY_DTYPES.values():
            raise TrafficError(
                str(path),
                f"array '{name}' has numpy type {values.dtype}",
                "Save numbers, booleans or strings (U).",
            )
    return arrays


def _check_is_archive(path: Path) -> None:
    with path.open("rb") as opened:
        start = opened.read(2)
    if start == _BARE:
        raise TrafficError(str(path), "holds one bare array", "Save it with np.savez, by name.")
    if start != _ARCHIVE:
        raise TrafficError(
            str(path), "is no .npz file", "Write it with np.savez, one array an input."
        )


def _one_request_a_row(where: str, inputs: Tensors, specs: Specs | None) -> Tensors:
    """Arrays that share their first axis are that many requests, others are one request."""
    if specs is None:
        lengths = {a.shape[:1] for a in inputs.values()}
        if len(lengths) == 1 and lengths != {()}:
            return inputs
        return {n: a[np.newaxis] for n, a in inputs.items()}
    if all(
        a.ndim == len(specs[n].shape) and not _flat(a.shape, specs[n]) for n, a in inputs.items()
    ):
        inputs = {n: a[np.newaxis] for n, a in inputs.items()}
    inputs = {n: a[:, np.newaxis] if _flat(a.shape, specs[n]) else a for n, a in inputs.items()}
    for name, values in inputs.items():
        _check_shape(where, name, values.shape[1:] if values.ndim else None, specs[name])
    if len({len(a) for a in inputs.values()}) > 1:
        shown = ", ".join(f"{n} {len(a)}" for n, a in inputs.items())
        raise TrafficError(
            where,
            f"the inputs have different numbers of rows: {shown}",
            "Give every input one row a request.",
        )
    return inputs


def _flat(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether values are (N,) where rows of one value, (N, 1), are meant: converters declare these.

    Lists of any length are told apart: there (N,) are the values of one row.
    """
    return len(shape) == 1 and spec.shape == (1,)


def _check_shape(where: str, name: str, trailing: tuple[int, ...] | None, spec: TensorSpec) -> None:
    fits = (
        trailing is not None
        and len(trailing) == len(spec.shape)
        and all(w is None or w == g for w, g in zip(spec.shape, trailing, strict=True))
    )
    if not fits:
        found = "a single value" if trailing is None else f"rows of shape {list(trailing)}"
        raise TrafficError(
            where,
            f"column '{name}' has {found} where the model takes {spec.shown()}",
            "Reshape it.",
        )


def _parquet(path: Path, specs: Specs | None) -> Iterator[Piece]:
    with (
        damage_is_a_traffic_error(str(path), "Parquet"),
        pq.ParquetFile(path, page_checksum_verification=True) as parquet,
    ):
        names = _check_names(str(path), parquet.schema_arrow.names, specs)
        for batch in parquet.iter_batches(PIECE_ROWS, use_threads=False):
            inputs = {
                n: _column_values(str(path), n, batch.column(n), specs[n] if specs else None)
                for n in names
            }
            side = {n: batch.column(n).to_pylist() for n in batch.schema.names if n not in names}
            yield Piece(
                count=len(batch), inputs=inputs, **_side_columns(str(path), len(batch), side, names)
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
    if _flat(values.shape, spec):
        values = values[:, np.newaxis]
    _check_shape(where, name, values.shape[1:], spec)
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
    arrays = _nested(
        where, name, column.to_pylist(), TensorSpec(name=name, datatype=own, shape=declared.shape)
    )
    if isinstance(arrays, list):
        return [cast_lossless(where, name, a, declared.datatype) for a in arrays]
    return cast_lossless(where, name, arrays, declared.datatype)


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if hasattr(kind, "value_type") else 0


def _nested(where: str, name: str, values: Sequence[Any], spec: TensorSpec) -> Array | list[Array]:
    """Scalars and nested lists: one row each where the depth is the input's, else several rows."""
    try:
        joined = array_from_json(where, name, values, spec.datatype)
        if _flat(joined.shape, spec):
            return joined[:, np.newaxis]
        if joined.ndim == len(spec.shape) + 1:
            _check_shape(where, name, joined.shape[1:], spec)
            return joined
    except RaggedError:
        pass
    arrays = []
    for value in values:
        try:
            array = array_from_json(where, name, [value], spec.datatype)[0]
        except RaggedError:
            raise TrafficError(
                where, f"column '{name}' has lists of different lengths in one request", "Pad them."
            ) from None
        rows = np.asarray(array, object if spec.datatype == "BYTES" else None)
        if _flat(np.atleast_1d(rows).shape, spec):
            rows = np.atleast_1d(rows)[:, np.newaxis]
        elif rows.ndim == len(spec.shape):
            rows = rows[np.newaxis]
        _check_shape(where, name, rows.shape[1:] if rows.ndim else None, spec)
        arrays.append(rows)
    return arrays


def _jsonl(path: Path, specs: Specs | None) -> Iterator[Piece]:
    waiting: list[dict[str, Any]] = []
    names = list(next(_json_lines(path), (0, {}))[1])
    inputs = _check_names(str(path), names, specs)
    declared = specs or _inferred(path, inputs)
    for number, line in _json_lines(path):
        if line.keys() != set(names):
            odd = sorted(line.keys() ^ set(names))
            raise TrafficError(
                f"{path}:{number}",
                f"other columns than line 1: {', '.join(odd)}",
                "Give every line the same columns.",
            )
        waiting.append(line)
        if len(waiting) == PIECE_ROWS:
            yield _json_piece(str(path), waiting, inputs, declared)
            waiting = []
    if waiting:
        yield _json_piece(str(path), waiting, inputs, declared)


def _json_piece(
    where: str, lines: Sequence[dict[str, Any]], inputs: Sequence[str], specs: Specs
) -> Piece:
    columns = {n: [line[n] for line in lines] for n in lines[0]}
    return Piece(
        count=len(lines),
        inputs={n: _nested(where, n, columns[n], specs[n]) for n in inputs},
        **_side_columns(where, len(lines), columns, inputs),
    )


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as opened:
        for number, text in enumerate(opened, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except UnicodeDecodeError:
                raise TrafficError(
                    f"{path}:{number}", "is no UTF-8 text", "Write the file in UTF-8."
                ) from None
            except (ValueError, RecursionError):
                line = None
            if not isinstance(line, dict):
                raise TrafficError(
                    f"{path}:{number}",
                    "no JSON object",
                    "Write one object a line: input → value.",
                )
            yield number, line


def _inferred(path: Path, inputs: Sequence[str]) -> Specs:
    """The narrowest declaration that fits every line, when no model says what it takes."""
    kinds: dict[str, set[type]] = {n: set() for n in inputs}
    depth: dict[str, int] = {}
    for _, line in _json_lines(path):
        for name in kinds.keys() & line.keys():
            values = np.array([line[name]], dtype=object)
            kinds[name] |= {type(v) for v in values.ravel().tolist()}
            depth.setdefault(name, values.ndim - 1)
    return {
        n: TensorSpec(
            name=n, datatype=datatype_of_json(kinds[n]) or "FP64", shape=(None,) * depth.get(n, 0)
        )
        for n in inputs
    }
