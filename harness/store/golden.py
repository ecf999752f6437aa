"""Golden rows: what a version took, computed and answered when it was trained, as one .npz file.

    format         "harness-golden/1"
    model          the version's digest, or "" where it was not known yet
    input:NAME     one array an input, N rows each
    feature:NAME   one array a feature or fitted tensor
    output:NAME    one array an output

Plain numpy arrays (text as U), never a pickle: training code may write the file with np.savez.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from harness.core.errors import ResolveError, UsageError
from harness.core.tensors import Array, Tensors
from harness.store.files import write_atomically
from harness.store.npz_text import MOST_TEXT, fixed_width
from harness.store.plain_npz import read_plain_npz

FORMAT = "harness-golden/1"
_PARTS = ("input", "feature", "output")
_REMEDY = "Make the golden rows again: harness golden make MODEL --inputs T."


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenRows:
    """N rows through one version."""

    model: str
    """Digest of the version; "" = not recorded."""
    inputs: Tensors
    """Shape (N, …) each."""
    features: Tensors
    """Features and fitted tensors, shape (N, …) each; may be empty."""
    outputs: Tensors
    """Shape (N, …) each; at least one."""

    def __len__(self) -> int:
        """Rows."""
        return len(next(iter(self.inputs.values())))


def write_golden(path: Path, rows: GoldenRows) -> None:
    """Writes golden rows, whole or not at all.

    Raises:
      UsageError: text that no array of one width can hold.
    """
    arrays: dict[str, Array] = {"format": np.array(FORMAT), "model": np.array(rows.model)}
    for part, tensors in zip(_PARTS, (rows.inputs, rows.features, rows.outputs), strict=True):
        for name, values in tensors.items():
            saved = fixed_width(values)
            if saved is None:
                what = (
                    f"cannot be saved: a text ends in NUL, or {len(values):,} rows as wide as the longest "
                    f"take more than {MOST_TEXT >> 20} MiB"
                )
                raise UsageError(f"{part} '{name}'", what, "Give other rows, or fewer.")
            arrays[f"{part}:{name}"] = saved
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(path, content.getvalue())


def read_golden(path: Path, where: str) -> GoldenRows:
    """Reads golden rows strictly.

    Args:
      path: the file.
      where: the version it belongs to, for messages.

    Raises:
      ResolveError: damaged, another format, or arrays of unequal length.
    """
    place = f"{where}, golden rows"
    arrays = _arrays(path, place)
    form = str(arrays.pop("format", ""))
    if form != FORMAT:
        raise ResolveError(place, f"its format is '{form}', not '{FORMAT}'", _REMEDY)
    model = str(arrays.pop("model", ""))
    parts = _parts(arrays, place)
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        shown = ", ".join(f"{n} {k}" for n, k in lengths.items()) or "none"
        raise ResolveError(
            place, f"arrays need the same number of rows, at least 1: {shown}", _REMEDY
        )
    for part in ("input", "output"):
        if not parts[part]:
            raise ResolveError(place, f"there is no {part}:NAME array", _REMEDY)
    return GoldenRows(
        model=model, inputs=parts["input"], features=parts["feature"], outputs=parts["output"]
    )


def _arrays(path: Path, place: str) -> Tensors:
    """Everything in the file; what is no array of numbers or text is not read."""
    try:
        return read_plain_npz(path)
    except (OSError, ValueError) as error:
        raise ResolveError(place, f"the file cannot be read: {error}", _REMEDY) from None


def _parts(arrays: Tensors, place: str) -> dict[str, Tensors]:
    """The arrays by what they hold, under the tensors' names."""
    parts: dict[str, Tensors] = {part: {} for part in _PARTS}
    for name, values in arrays.items():
        part, _, tensor = name.partition(":")
        if part not in parts or not tensor:
            raise ResolveError(
                place, f"array '{name}' is none of input:NAME, feature:NAME, output:NAME", _REMEDY
            )
        if values.dtype.kind not in "biufU" or not values.ndim:
            what = f"array '{name}' has type {values.dtype}{list(values.shape)}"
            raise ResolveError(place, what, _REMEDY)
        parts[part][tensor] = values.astype(object) if values.dtype.kind == "U" else values
    return parts
