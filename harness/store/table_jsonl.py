"""Tables of inputs as .jsonl: one object a line, input → value."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import TrafficError
from harness.core.tensors import Array, TensorSpec
from harness.store.casting import datatype_of_json
from harness.store.table_pieces import PIECE_ROWS, Piece, Specs, check_names, nested, side_columns

_SHOWN = 40
"""Characters of a name or a number that a message shows."""


def jsonl_pieces(path: Path, specs: Specs | None) -> Iterator[Piece]:
    """The table in pieces; see `table_files.pieces`."""
    waiting: list[tuple[int, dict[str, Any]]] = []
    names = list(next(_json_lines(path), (0, {}))[1])
    inputs = check_names(str(path), names, specs)
    taken = specs or _inferred(path, inputs)
    for number, line in _json_lines(path):
        if line.keys() != set(names):
            odd = sorted(line.keys() ^ set(names))
            raise TrafficError(
                f"{path}:{number}",
                f"other columns than line 1: {', '.join(odd)}",
                "Give every line the same columns.",
            )
        waiting.append((number, line))
        if len(waiting) == PIECE_ROWS:
            yield _json_piece(path, waiting, inputs, taken, declared=specs is not None)
            waiting = []
    if waiting:
        yield _json_piece(path, waiting, inputs, taken, declared=specs is not None)


def _json_piece(
    path: Path,
    lines: Sequence[tuple[int, dict[str, Any]]],
    inputs: Sequence[str],
    specs: Specs,
    *,
    declared: bool,
) -> Piece:
    columns = {n: [line[n] for _, line in lines] for n in lines[0][1]}
    numbers = [number for number, _ in lines]
    return Piece(
        count=len(lines),
        inputs={n: _values(path, numbers, columns[n], specs[n], declared=declared) for n in inputs},
        **side_columns(str(path), len(lines), columns, inputs),
    )


def _values(
    path: Path, numbers: Sequence[int], values: Sequence[Any], spec: TensorSpec, *, declared: bool
) -> Array | list[Array]:
    """One input's values; what is refused of a line by itself is told with its number.

    Where the model did not declare the type, it was inferred from all lines, and what is odd is their mixture.
    """
    try:
        return nested(str(path), spec.name, values, spec)
    except TrafficError as refused:
        for number, value in zip(numbers, values, strict=True):
            where = f"{path}:{number}"
            try:
                nested(where, spec.name, [value], spec)
            except TrafficError as alone:
                told = alone if declared else refused
                raise TrafficError(where, told.what, told.remedy) from None
        raise


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as opened:
        for number, text in enumerate(opened, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text, parse_float=_decimal, object_pairs_hook=_once)
            except _OddError as odd:
                raise TrafficError(f"{path}:{number}", str(odd), odd.remedy) from None
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


class _OddError(Exception):
    """JSON that a reader would take for something else than it says."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def _decimal(text: str) -> float:
    """A number with a point or an exponent; one too large is not taken for infinity."""
    value = float(text)
    if math.isinf(value):
        raise _OddError(
            f"holds {text[:_SHOWN]}, which no float can hold", "Write Infinity where that is meant."
        )
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; one with two values of a name says nothing certain."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _OddError(f"names '{twice[:_SHOWN]}' twice", "Give each column once a line.")
    return found


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
            name=n,
            datatype=datatype_of_json(kinds[n])
            or datatype_of_json(kinds[n] - {type(None)})
            or "FP64",
            shape=(None,) * depth.get(n, 0),
        )
        for n in inputs
    }
