"""What a tensor is called, holds and looks like on the Open Inference wire and in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from harness.core.plain_text import one_line

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Strings = npt.NDArray[np.object_]
Tensors = dict[str, Array]
Kind = TypeVar("Kind", bound=np.generic)


TEXT_BYTES = 49
"""Of a text in memory, besides its characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedText:
    """Text that repeats, as codes into its words."""

    codes: npt.NDArray[np.int32]
    """Any shape; each in [0, len(words))."""
    words: Strings
    """Shape (w,)."""

    def text(self) -> Strings:
        """The text itself, in the codes' shape."""
        found: Strings = self.words[self.codes]
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes, and of the text."""
        return self.codes.shape

    def __getitem__(self, rows: Ints | Bools | slice) -> CodedText:
        """Some rows of it."""
        return CodedText(codes=self.codes[rows], words=self.words)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedText:
    """Text that hardly repeats, such as ids: one value after the other, and no object for each.

    Reading and writing a million ids as objects takes longer than all that is done with them between.
    """

    offsets: npt.NDArray[np.int32]
    """Where each value begins, and where the last one ends, shape (n + 1,), ascending."""
    data: npt.NDArray[np.uint8]
    """All of them as UTF-8."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array of them."""
        return (len(self),)

    def __len__(self) -> int:
        """Number of values."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, at: int | np.integer) -> str: ...

    @overload
    def __getitem__(self, at: Array | slice) -> Strings: ...

    def __getitem__(self, at: int | np.integer | Array | slice) -> str | Strings:
        """One value, or some as an array."""
        if isinstance(at, (int, np.integer)):
            return self._value(range(len(self))[at])
        every = range(len(self))
        chosen = every[at] if isinstance(at, slice) else np.arange(len(self))[at].tolist()
        found = np.empty(len(chosen), object)
        found[:] = [self._value(i) for i in chosen]
        return found

    def __iter__(self) -> Iterator[str]:
        """One value after the other."""
        return iter(self.tolist())

    def tolist(self) -> list[str]:
        """All of them."""
        return [self._value(i) for i in range(len(self))]

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Strings:
        """All of them as objects; numpy asks for it."""
        return self[:]

    def _value(self, i: int) -> str:
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()


class Decoded(Mapping[str, npt.NDArray[Kind]]):
    """Columns by name; what is known as codes becomes text when it is first asked for, and not before.

    Args:
      columns: arrays, and text as codes.
    """

    __slots__ = ("_columns", "_texts")

    def __init__(self, columns: Mapping[str, npt.NDArray[Kind] | CodedText]) -> None:
        self._columns = columns
        self._texts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Kind]:
        """A column."""
        column = self._columns[name]
        if not isinstance(column, CodedText):
            return column
        if name not in self._texts:
            self._texts[name] = column.text()
        found: npt.NDArray[Kind] = self._texts[name]
        return found

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Number of columns."""
        return len(self._columns)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a column; without making its text."""
        return name in self._columns

    def cut(self, start: int, stop: int) -> Decoded[Kind]:
        """Rows start:stop of every column; without making their text."""
        return Decoded({name: column[start:stop] for name, column in self._columns.items()})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nested:
    """A sequence or an optional: one value for a whole request, of any number of tensors.

    It has no rows; in an array of answers every row of a request holds its request's value.
    """

    form: str
    """`t` a tensor, `-` an optional that is absent, `[…]` a sequence of these: `[tt]`."""
    leaves: tuple[Array, ...]
    """Its tensors in order, any shapes, one dtype."""

    def __eq__(self, other: object) -> bool:
        """The same form and the same bits."""
        return (
            isinstance(other, Nested)
            and self.form == other.form
            and len(self.leaves) == len(other.leaves)
            and all(map(same_bits, self.leaves, other.leaves))
        )

    def __hash__(self) -> int:
        """Equal values have equal forms."""
        return hash(self.form)

    def flat(self) -> Array:
        """The values of all its tensors, shape (values,)."""
        parts = [leaf.reshape(-1) for leaf in self.leaves]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def nbytes(self) -> int:
        """Memory of its tensors."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def cells(self, rows: int) -> Array:
        """As an array of answers, shape (rows,)."""
        cells = np.empty(rows, object)
        cells.fill(self)
        return cells


def held_bytes(array: Array) -> int:
    """Memory that an array takes; a text counts by its length, also where others share it."""
    if array.dtype != object:
        return int(array.nbytes)
    texts = sum(len(value) + TEXT_BYTES for value in array.flat if isinstance(value, str))
    return int(array.nbytes) + texts


def flat_rows(tensor: Array) -> Array:
    """A tensor of any rank as a matrix, shape (rows, values of a row); also one without rows or values."""
    return tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))


def same_bits(baseline: Array, candidate: Array) -> bool:
    """Whether two tensors are surely equal: same dtype, shape and bytes (words: same words).

    False proves nothing (−0 and 0 have other bits); it only says that the rows must be compared.
    """
    if baseline.dtype != candidate.dtype or baseline.shape != candidate.shape:
        return False
    if is_one_value(baseline) and is_one_value(candidate):
        baseline, candidate = baseline[:1], candidate[:1]
    if baseline.dtype == object:
        return bool(np.array_equal(baseline, candidate))
    return baseline.tobytes() == candidate.tobytes()


def is_one_value(tensor: Array) -> bool:
    """Whether a tensor with rows holds one value for all of them: it is in memory once."""
    return tensor.ndim > 0 and len(tensor) > 0 and tensor.strides[0] == 0


def some_rows(tensor: Array, rows: Ints | Bools) -> Array:
    """Rows of a tensor; of one value for all rows it stays that.

    Args:
      tensor: shape (R, *trailing).
      rows: indices, or whether a row is taken, shape (R,).
    """
    if not is_one_value(tensor):
        return tensor[rows]
    count = np.count_nonzero(rows) if rows.dtype == np.bool_ else len(rows)
    # A slice: one text is no array of texts.
    return np.broadcast_to(tensor[:1], (int(count), *tensor.shape[1:]))


def rows_with_nan(tensor: Array) -> Bools:
    """Which rows of a tensor of floats hold a NaN, shape (R,)."""
    looked_at = tensor[:1] if is_one_value(tensor) else tensor
    found = np.isnan(looked_at).any(axis=tuple(range(1, tensor.ndim)))
    return np.broadcast_to(found, (len(tensor),))


def holds_nested(values: Array) -> bool:
    """Whether rows that were answered hold sequences or optionals: all do or none does."""
    return values.dtype == object and values.size > 0 and isinstance(values.flat[0], Nested)


Feeds = Mapping[str, Array | CodedText]
"""What a model is given: per input an array, or text as codes."""

Columns = Mapping[str, Array | CodedText | PackedText]
"""A table: per column as many values, or text as codes or packed."""


NESTED = "NESTED:"
"""Beginning of the datatype of sequences and optionals; onnxruntime's name for the type follows."""

MAP = "MAP:"
"""Beginning of the datatype of ZipMap's scores, class → score; onnxruntime's name for the type follows: a class
0 is no class "0"."""

# Open Inference datatype → numpy dtype. BYTES become object arrays of str.
NUMPY_DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, type and shape of one input or output.

    The first axis is the batch; it is never part of `shape`.
    """

    name: str
    """As the model and the wire call it."""
    datatype: str
    """A key of NUMPY_DTYPES; "MAP:<onnx type>" for ZipMap (class → score); "NESTED:<onnx type>" for a sequence
    or an optional of these, one for a whole request; "OTHER:<onnx type>" is not compared."""
    shape: tuple[int | None, ...]
    """Trailing shape without the batch axis; None for a free dimension."""
    any_rank: bool = False
    """A model does not declare how many axes it has, or takes a scalar, of which runtimes say the same: `shape` is
    () and says nothing."""

    def shown(self, rows: int | None = None) -> str:
        """As shown to a user, in one line: name FP32[?, 3], name FP32[any rank], or name seq(tensor(float)).

        Args:
          rows: that a batch must have; None = any.
        """
        name = one_line(self.name)
        if self.datatype.startswith((NESTED, MAP)):
            return f"{name} {self.datatype.partition(':')[2]}"
        if self.any_rank:
            return f"{name} {self.datatype}[any rank]"
        dims = ", ".join("?" if d is None else str(d) for d in (rows, *self.shape))
        return f"{name} {self.datatype}[{dims}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model version takes and returns."""

    inputs: tuple[TensorSpec, ...]
    """In the model's order."""
    outputs: tuple[TensorSpec, ...]
    """In the model's order."""
    rows: tuple[tuple[str, int], ...] = ()
    """Inputs that declare how many rows they take → that number; others take any."""
    lengths: tuple[tuple[str, int], ...] = ()
    """Plain outputs whose first dimension is declared as a number above 1 that no input declares → that number."""

    @property
    def batch_rows(self) -> int:
        """Rows that a batch must have; 0 = any, or inputs that declare unlike numbers."""
        counts = {count for _, count in self.rows}
        return counts.pop() if len(counts) == 1 else 0
