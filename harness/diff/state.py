"""Saving an accumulator as plain arrays: numbers as they are, words as JSON bytes.

Object arrays would need pickle, fixed-width numpy strings drop trailing NULs; JSON keeps every
word, and `repr` of a float is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.core.tensors import Array

State = dict[str, Array]


def bytes_from_value(value: Any) -> Array:  # noqa: ANN401 - any JSON value
    """Writes a JSON value (NaN allowed) as a uint8 array."""
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8).copy()


def value_from_bytes(array: Array) -> Any:  # noqa: ANN401 - any JSON value
    """Reads what `bytes_from_value` wrote."""
    return json.loads(array.tobytes())


def array_parts(name: str, array: Array) -> State:
    """A tensor under a name; words become JSON bytes under the name + ".words"."""
    if array.dtype == object:
        return {
            f"{name}.words": bytes_from_value([str(v) for v in array.ravel()]),
            f"{name}.shape": np.array(array.shape, dtype=np.int64),
        }
    return {name: array}


def array_from_parts(name: str, state: Mapping[str, Array]) -> Array | None:
    """Reads what `array_parts` wrote; None when nothing was saved under the name."""
    if name in state:
        return state[name]
    if f"{name}.words" not in state:
        return None
    words = value_from_bytes(state[f"{name}.words"])
    flat = np.empty(len(words), dtype=object)
    flat[:] = words
    return flat.reshape(tuple(state[f"{name}.shape"].tolist()))


def inside(prefix: str, state: Mapping[str, Array]) -> State:
    """The part of a state that was saved under `prefix/`."""
    start = f"{prefix}/"
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}


def under(prefix: str, state: Mapping[str, Array]) -> State:
    """Puts a state under `prefix/`."""
    return {f"{prefix}/{key}": value for key, value in state.items()}
