"""Tensors ↔ raw buffers: little-endian C order; strings as int64 offsets and one UTF-8 blob.

Text that repeats is sent as words and codes. Besides being smaller, it gives onnxruntime the same few
text objects again and again: for 1,024 rows with five category columns that saves more than half of
the time a small model takes.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from harness.sandbox.child.frames import FrameError

Array = npt.NDArray[Any]

ALIGNMENT = 64
MAX_RANK = 16
STRING = "str"
CODED = "words"
_SAMPLE = 128
_MOST_VALUES = 1 << 48
_MOST_SHOWN = 200
_CODES_A_WORD = 4
_DESCRIPTIONS = 1024
_WORD_COUNT_BYTES = 8
_LONG = 1024
"""Bytes that texts have in the mean from which on memory counts more than calls."""
_SHORT = 32
"""Bytes of a word, where each value is to have a copy of its own."""
NUMBERS = {
    name: np.dtype(name)
    for name in (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    )
}
_NAMES = {dtype.str[1:]: name for name, dtype in NUMBERS.items()}
"""Kind and size → name; dtype.name would take longer than the rest, and two C types can be int64."""
_NATIVE = {dtype: name for name, dtype in NUMBERS.items()}
"""Of this machine's byte order; a look-up by dtype is quicker than by its text."""
DTYPES = {**NUMBERS, STRING: np.dtype(object), CODED: np.dtype(object)}
"""What each kind of buffer becomes."""
_PADDINGS = [memoryview(bytes(ALIGNMENT - over)) for over in range(ALIGNMENT)]
"""By how many bytes lie behind a border."""
_FEW_BYTES = 1 << 14
"""Of all buffers, that are copied into one."""
_ONE_WORD = struct.Struct("<qqqi")
"""Of one value: the number of words, where the word begins and ends, its code."""


class Coded(Protocol):
    """Text that is known as words and codes already."""

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """Any shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes."""

    @property
    def words(self) -> npt.NDArray[np.object_]:
        """Shape (w,)."""


def encoded(tensors: Mapping[str, Array | Coded]) -> tuple[str, list[memoryview]]:
    """Descriptions for the header as a JSON list, and the buffers in the same order.

    Raises:
      TypeError: a dtype that has no place on the pipe, or something in an object array that is no str.
      UnicodeEncodeError: a string with a lone surrogate.
    """
    described: list[str] = []
    buffers: list[memoryview] = []
    for name, array in tensors.items():
        if isinstance(array, np.ndarray):
            dtype, parts = _buffers(name, array)
        else:
            dtype, parts = CODED, _coded_buffers(array.codes.reshape(-1), array.words)
        size = parts[0].nbytes if len(parts) == 1 else sum(p.nbytes for p in parts)
        described.append(_description(name, dtype, array.shape, size))
        buffers.extend(parts)
        if size % ALIGNMENT:
            buffers.append(_PADDINGS[size % ALIGNMENT])
    if len(buffers) > 1 and sum(map(len, buffers)) <= _FEW_BYTES:
        # Of a request by itself: whoever has it next takes as many steps as there are pieces.
        buffers = [memoryview(b"".join(buffers))]
    return f"[{','.join(described)}]", buffers


def _buffers(name: str, array: Array) -> tuple[str, list[memoryview]]:
    """What an array is sent as; raises as `encoded`."""
    native = _NATIVE.get(array.dtype)
    # Most answers, each time: a small model runs in less time than the general way takes.
    if native is not None and array.nbytes <= ALIGNMENT:
        return native, [memoryview(array.tobytes())]
    if native is not None and array.flags.c_contiguous:
        return native, [array.reshape(-1).view(np.uint8).data]
    if (number := _NAMES.get(array.dtype.str[1:])) is not None:
        flat = np.ascontiguousarray(array, dtype=NUMBERS[number]).reshape(-1)
        return number, [flat.view(np.uint8).data]
    if array.dtype.kind in "OU":
        return _text_buffers(name, array.reshape(-1).tolist())
    msg = f"{name}: dtype {array.dtype} cannot be given to a model"
    raise TypeError(msg)


@functools.lru_cache(_DESCRIPTIONS)
def _description(name: str, dtype: str, shape: tuple[int, ...], size: int) -> str:
    """A tensor as JSON; the same ones come with every batch."""
    return json.dumps({"name": name, "dtype": dtype, "shape": list(shape), "size": size})


def _text_buffers(name: str, values: list[str]) -> tuple[str, list[memoryview]]:
    """The text as it is, or as words and codes when its beginning repeats itself."""
    try:
        text = "".join(values)
    except TypeError as error:
        msg = f"{name}: a string tensor holds something else than text ({error})"
        raise TypeError(msg) from None
    if len(values) < _SAMPLE or len(set(values[:_SAMPLE])) > _SAMPLE // 2:
        offsets, blob = _offsets_and_blob(values, text)
        return STRING, [offsets.view(np.uint8).data, memoryview(blob)]
    words = {word: code for code, word in enumerate(dict.fromkeys(values))}
    codes = np.fromiter(map(words.__getitem__, values), np.int32, len(values))
    return CODED, _word_buffers(codes, list(words))


def _coded_buffers(
    codes: npt.NDArray[np.int32], words: npt.NDArray[np.object_]
) -> list[memoryview]:
    """Codes as they are, with all words or, where these are many, with those that occur."""
    if len(codes) == 1:
        blob = "".join(words[codes].tolist()).encode()
        return [memoryview(_ONE_WORD.pack(1, 0, len(blob), 0) + blob)]
    if len(words) > len(codes) // _CODES_A_WORD:
        used, inverse = np.unique(codes, return_inverse=True)
        words, codes = words[used], inverse.astype(np.int32)
    return _word_buffers(np.ascontiguousarray(codes), words.tolist())


def _word_buffers(codes: npt.NDArray[np.int32], words: list[str]) -> list[memoryview]:
    offsets, blob = _offsets_and_blob(words, "".join(words))
    numbers = np.concatenate([[len(words)], offsets])
    return [numbers.view(np.uint8).data, codes.view(np.uint8).data, memoryview(blob)]


def _offsets_and_blob(values: list[str], text: str) -> tuple[npt.NDArray[np.int64], bytes]:
    """Where each value begins, shape (n + 1,), and all of them as UTF-8."""
    if text.isascii():
        blob = text.encode("ascii")
        lengths = np.fromiter(map(len, values), np.int64, len(values))
    else:
        pieces = [v.encode("utf-8") for v in values]
        blob = b"".join(pieces)
        lengths = np.fromiter(map(len, pieces), np.int64, len(values))
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets, blob


class Entry(NamedTuple):
    """One tensor of a body, its description checked."""

    name: str
    dtype: str
    """A key of NUMBERS, STRING or CODED."""
    shape: tuple[int, ...]
    total: int
    """Values."""
    at: int
    """First byte in the body."""
    size: int
    """Bytes, without padding."""


def layout(described: object, at: int = 0) -> tuple[tuple[Entry, ...], int]:
    """Where the tensors of a list lie.

    Args:
      described: the header's list for these tensors.
      at: where the first of them begins.

    Returns:
      The tensors in the header's order, and where the next list's begin; after the last list that is
      the body's end.

    Raises:
      FrameError: a description that cannot be true.
    """
    if not isinstance(described, list):
        msg = "the tensor list is missing"
        raise FrameError(msg)
    entries: dict[str, Entry] = {}
    for given in described:
        name, dtype, shape, size = _checked(given)
        if name in entries:
            msg = f"tensor {name[:_MOST_SHOWN]!r} comes twice"
            raise FrameError(msg)
        count = _product(shape)
        if dtype in NUMBERS and count * NUMBERS[dtype].itemsize != size:
            msg = (
                f"tensor {name[:_MOST_SHOWN]!r}: {size} bytes do not hold {count} values of {dtype}"
            )
            raise FrameError(msg)
        entries[name] = Entry(name, dtype, shape, count, at, size)
        at += -(-size // ALIGNMENT) * ALIGNMENT
    return tuple(entries.values()), at


def values(
    entries: Sequence[Entry], body: memoryview, *, as_bytes: bool = False
) -> dict[str, Array]:
    """The tensors themselves; numbers are views of `body`.

    Args:
      entries: from `layout`.
      body: all bytes of the frame's body, as many as `layout` said or more.
      as_bytes: short ASCII words of one length may come as their bytes (numpy's void), which
        onnxruntime takes as text in half the time.

    Raises:
      FrameError: bytes that do not fit their description.
    """
    tensors: dict[str, Array] = {}
    for name, dtype, shape, count, at, size in entries:
        if at + size > body.nbytes:
            msg = f"tensor {name[:_MOST_SHOWN]!r} is longer than its frame"
            raise FrameError(msg)
        if dtype == STRING:
            tensors[name] = _strings(name, body[at : at + size], count).reshape(shape)
        elif dtype == CODED:
            coded = _coded_strings(name, body[at : at + size], count, as_bytes)
            tensors[name] = coded.reshape(shape)
        else:
            # One call, where a flat view and its reshaping are two: small models run in less.
            kind = NUMBERS[dtype]
            array: Array = np.ndarray(shape, kind, body, at) if count else np.empty(shape, kind)
            if dtype == "bool" and count and int(array.view(np.uint8).max()) > 1:
                msg = f"tensor {name[:_MOST_SHOWN]!r}: a boolean is neither 0 nor 1"
                raise FrameError(msg)
            tensors[name] = array
    return tensors


def _checked(entry: object) -> tuple[str, str, tuple[int, ...], int]:
    if not isinstance(entry, dict):
        msg = "a tensor description is no object"
        raise FrameError(msg)
    name, dtype, shape, size = (entry.get(k) for k in ("name", "dtype", "shape", "size"))
    if not isinstance(name, str) or not isinstance(dtype, str):
        msg = "a tensor has no name or dtype"
        raise FrameError(msg)
    if dtype not in {STRING, CODED} and dtype not in NUMBERS:
        msg = f"tensor {name[:_MOST_SHOWN]!r} has the unknown dtype {dtype[:_MOST_SHOWN]!r}"
        raise FrameError(msg)
    if not is_unicode(name):
        msg = f"tensor {name[:_MOST_SHOWN]!r}: the name holds half a character"
        raise FrameError(msg)
    if not _is_count(size) or not isinstance(shape, list) or len(shape) > MAX_RANK:
        msg = f"tensor {name[:_MOST_SHOWN]!r} has no valid size or shape"
        raise FrameError(msg)
    if not is_shape(shape):
        msg = f"tensor {name[:_MOST_SHOWN]!r} has the shape {str(shape)[:_MOST_SHOWN]}"
        raise FrameError(msg)
    return name, dtype, tuple(shape), size


def is_unicode(text: str) -> bool:
    """Whether a text can be written down: JSON may hold half a character, which no file takes."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def is_shape(shape: list[Any]) -> bool:
    """Whether numpy can make an array like this, be it an empty one with large other axes."""
    if len(shape) > MAX_RANK or not all(_is_count(d) for d in shape):
        return False
    return _product(tuple(d or 1 for d in shape)) < _MOST_VALUES


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MOST_VALUES


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for d in shape:
        count *= d
    return count


def _coded_strings(name: str, raw: memoryview, count: int, as_bytes: bool) -> Array:
    """Layout: number of words, their offsets, one int32 code a value, the words."""
    # Too few bytes make a number too, and fail the check below.
    words = int.from_bytes(raw[:_WORD_COUNT_BYTES], "little", signed=True)
    codes_at = _WORD_COUNT_BYTES * (words + 2)
    blob_at = codes_at + count * 4
    if not 0 <= words <= count or blob_at > len(raw):
        msg = f"tensor {name[:_MOST_SHOWN]!r}: {len(raw)} bytes do not hold {words} words and {count} codes"
        raise FrameError(msg)
    codes = np.frombuffer(raw[codes_at:blob_at], np.int32)
    if count and (int(codes.min()) < 0 or int(codes.max()) >= words):
        msg = f"tensor {name[:_MOST_SHOWN]!r}: a code has no word"
        raise FrameError(msg)
    offsets, blob = np.frombuffer(raw[_WORD_COUNT_BYTES:codes_at], np.int64), bytes(raw[blob_at:])
    length = len(blob) // words if as_bytes and words else 0
    if 0 < length <= _SHORT and blob.isascii() and _even(offsets, length, len(blob)):
        return np.frombuffer(blob, f"V{length}")[codes]
    return np.asarray(_texts(name, offsets, blob)[codes], object)


def _even(offsets: npt.NDArray[np.int64], length: int, size: int) -> bool:
    """Whether words of this length begin at the offsets, and fill so many bytes."""
    return (
        int(offsets[0]) == 0
        and int(offsets[-1]) == size
        and bool((np.diff(offsets) == length).all())
    )


def _strings(name: str, raw: memoryview, count: int) -> Array:
    """Layout: offsets, the texts."""
    head = (count + 1) * 8
    if head > len(raw):
        msg = f"tensor {name[:_MOST_SHOWN]!r}: {len(raw)} bytes do not hold {count} offsets"
        raise FrameError(msg)
    offsets, blob = np.frombuffer(raw[:head], np.int64), raw[head:]
    # Long texts are cut out one by one: a copy of them all, and its text, would be as large as they are.
    return _texts(name, offsets, blob if len(blob) > _LONG * count else bytes(blob))


def _texts(name: str, offsets: npt.NDArray[np.int64], blob: bytes | memoryview) -> Array:
    """One text for each pair of offsets."""
    if offsets[0] != 0 or offsets[-1] != len(blob) or bool((np.diff(offsets) < 0).any()):
        msg = f"tensor {name[:_MOST_SHOWN]!r}: string offsets are out of order"
        raise FrameError(msg)
    bounds = offsets.tolist()
    try:
        if isinstance(blob, bytes) and blob.isascii():
            text = blob.decode("ascii")
            values = [text[a:b] for a, b in pairwise(bounds)]
        else:
            values = [str(blob[a:b], "utf-8") for a, b in pairwise(bounds)]
    except UnicodeDecodeError:
        msg = f"tensor {name[:_MOST_SHOWN]!r}: a string is no UTF-8"
        raise FrameError(msg) from None
    out = np.empty(len(values), object)
    out[:] = values
    return out
