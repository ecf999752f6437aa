"""Typed values → plain JSON values, the same way in every file."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.places import ObjectPlace
from harness.core.tensors import PackedText


def jsonable(value: Any) -> Any:  # noqa: ANN401, C901, PLR0911 - one case a kind of value
    """Turns dataclasses, enums, numpy values, tuples and paths into JSON values.

    Non-finite floats become the strings "NaN", "Infinity" and "-Infinity", so that nothing is
    silently null and every JSON reader can read the file.

    Raises:
      TypeError: a value that has no JSON form.
    """
    match value:
        case enum.Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case float() | np.floating():
            number = float(value)
            if math.isfinite(number):
                return number
            return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")
        case np.bool_() | np.integer():
            return value.item()
        case np.ndarray() | list() | tuple() | PackedText():
            return [jsonable(v) for v in value]
        case Mapping():
            return {str(k): jsonable(v) for k, v in value.items()}
        case Path() | ObjectPlace():
            return str(value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
        case _:
            kind = type(value).__name__
            msg = f"no JSON form for {kind}"
            raise TypeError(msg)


def canonical(value: Any) -> bytes:  # noqa: ANN401
    """Canonical JSON bytes: sorted keys, no spaces, UTF-8. Equal values give equal bytes."""
    return json.dumps(
        jsonable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256(value: Any) -> str:  # noqa: ANN401
    """sha256 (hex) of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()
