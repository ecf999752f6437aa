"""Tables of inputs as .npz: one array an input.

Where `request_id` is one text, not an array of them, all rows are one request, as in a run's quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.core.errors import TrafficError
from harness.core.tensors import NUMPY_DTYPES, Tensors
from harness.store.casting import cast_lossless
from harness.store.plain_npz import read_plain_npz
from harness.store.table_pieces import (
    ID,
    PIECE_ROWS,
    Piece,
    Specs,
    check_names,
    check_shape,
    is_flat,
    side_columns,
)

_ARCHIVE = b"PK"
"""First bytes of what np.savez writes."""
_BARE = b"\x93N"
"""First bytes of what np.save writes."""


def npz_pieces(path: Path, specs: Specs | None) -> Iterator[Piece]:
    """The table in pieces; see `table_files.pieces`."""
    arrays = _npz_arrays(path)
    names = check_names(str(path), list(arrays), specs)
    inputs = {n: arrays[n] for n in names}
    if specs is not None:
        inputs = {n: cast_lossless(str(path), n, a, specs[n].datatype) for n, a in inputs.items()}
    inputs = _one_request_a_row(str(path), inputs, specs)
    count = len(next(iter(inputs.values())))
    side = {n: a.tolist() for n, a in arrays.items() if n not in names}
    if isinstance(side.get(ID), str) and count > 1:
        whole = {n: [v] if not isinstance(v, list) else v for n, v in side.items()}
        more = side_columns(str(path), 1, whole, names)
        yield Piece(count=1, inputs={n: [a] for n, a in inputs.items()}, **more)
        return
    for at in range(0, count, PIECE_ROWS):
        cut = slice(at, at + PIECE_ROWS)
        size = len(range(*cut.indices(count)))
        here = {n: v[cut] if isinstance(v, list) else [v] for n, v in side.items()}
        yield Piece(
            count=size,
            inputs={n: a[cut] for n, a in inputs.items()},
            **side_columns(str(path), size, here, names),
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
    declared = {n: a for n, a in inputs.items() if specs is not None and not specs[n].any_rank}
    if specs is None or not declared:
        lengths = {a.shape[:1] for a in inputs.values()}
        if len(lengths) == 1 and lengths != {()}:
            return inputs
        return {n: a[np.newaxis] for n, a in inputs.items()}
    if all(
        a.ndim == len(specs[n].shape) and not is_flat(a.shape, specs[n])
        for n, a in declared.items()
    ):
        inputs = {n: a[np.newaxis] for n, a in inputs.items()}
    inputs = {n: a[:, np.newaxis] if is_flat(a.shape, specs[n]) else a for n, a in inputs.items()}
    for name, values in inputs.items():
        check_shape(where, name, values.shape[1:] if values.ndim else None, specs[name])
    if len({len(a) for a in inputs.values()}) > 1:
        shown = ", ".join(f"{n} {len(a)}" for n, a in inputs.items())
        raise TrafficError(
            where,
            f"the inputs have different numbers of rows: {shown}",
            "Give every input one row a request.",
        )
    return inputs
