"""Weights that lie in files beside a model: only files that the parent offers are ever used.

onnxruntime reads external data from the file system when it is not told otherwise, and several of its
versions followed `../../etc/passwd`, absolute paths and links. So the locations are read off the model's
bytes before onnxruntime sees them: a location that is not among the offered names is refused here,
whatever the runtime would make of it. Offered files are memory; nothing is opened by name.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Files = Mapping[str, memoryview]
"""Name, relative to the model's folder → content."""

_LOCATION = b"location"
_VARINT, _BYTES = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}
_MAX_VARINT_BYTES = 10
_DATA_LOCATION, _EXTERNAL_DATA = 14, 13
_KEY, _VALUE = 1, 2
# Field numbers of onnx.proto that lead to tensors: message → field → message.
_LEADS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "half", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "half", 2: "half"},
}
"""A half is a tensor in a field that protobuf merges when it comes twice: what it says of where its data
lie may stand in the other half."""


class ExternalDataError(ValueError):
    """A model wants a file that it was not given."""


def files_from_fd(fd: int, table: Sequence[tuple[str, int, int]]) -> dict[str, memoryview]:
    """Maps offered files.

    Args:
      fd: a sealed memory file with all of them; closed elsewhere. Its pages are shared with every
        process that maps it, so the weights are there once.
      table: (name, first byte, bytes) of each.

    Raises:
      MemoryError: they do not fit into the address space.
    """
    if not any(size for _, _, size in table):
        return {name: memoryview(b"") for name, _, _ in table}
    try:
        # Private, because old kernels refuse a shared mapping of a sealed file even for reading.
        content = memoryview(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
    except OSError as error:
        msg = f"the external data do not fit into the memory limit ({error.strerror})"
        raise MemoryError(msg) from None
    return {name: content[start : start + size] for name, start, size in table}


def offer(options: Any, model: bytes, files: Files) -> None:  # noqa: ANN401 - onnxruntime has no types
    """Gives the session options the files that a model wants.

    The files' memory must stay until the session exists; onnxruntime copies what it needs.

    Args:
      options: an onnxruntime.SessionOptions.
      model: serialised.
      files: what the parent offers.

    Raises:
      ExternalDataError: a file is wanted that is not offered, or this onnxruntime is too old.
    """
    wanted = locations(model)
    if not wanted:
        return
    absent = [name for name in wanted if _plain(name) not in files]
    if absent:
        msg = f"external data {absent[0]!r:.300} is no file beside the model"
        raise ExternalDataError(msg)
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        import onnxruntime

        msg = (
            f"onnxruntime {onnxruntime.__version__} takes external data ({wanted[0]!r:.300}) only from"
            " paths; a sandbox needs 1.24.1 or later, or a model with its weights inside"
        )
        raise ExternalDataError(msg)
    contents = [files[_plain(name)] for name in wanted]
    options.add_external_initializers_from_files_in_memory(
        wanted, contents, [c.nbytes for c in contents]
    )


def locations(model: bytes) -> list[str]:
    """Names of the files that a model's tensors refer to, as they stand there, each once.

    Raises:
      ExternalDataError: the bytes are no protobuf of a model.
    """
    found: dict[str, None] = {}
    waiting = [("model", 0, len(model))]
    while waiting:
        message, start, stop = waiting.pop()
        # Protobuf keeps text as it is: what does not hold the key holds no external tensor.
        if model.find(_LOCATION, start, stop) < 0:
            continue
        if message in {"tensor", "half"}:
            names, outside = _tensor_locations(model, start, stop)
            if outside or message == "half":
                found.update(dict.fromkeys(names))
            continue
        leads = _LEADS[message]
        waiting.extend(
            (leads[number], *span)
            for number, span in _fields(model, start, stop)
            if number in leads and isinstance(span, tuple)
        )
    return list(found)


def _tensor_locations(model: bytes, start: int, stop: int) -> tuple[list[str], bool]:
    """Locations that one tensor names, and whether it says that its data lie there."""
    outside, names = False, []
    for number, content in _fields(model, start, stop):
        if number == _DATA_LOCATION and isinstance(content, int):
            outside = outside or content != 0
        elif number == _EXTERNAL_DATA and isinstance(content, tuple):
            keys: list[bytes] = []
            values: list[bytes] = []
            for part, span in _fields(model, *content):
                if isinstance(span, tuple) and part in {_KEY, _VALUE}:
                    (keys if part == _KEY else values).append(model[span[0] : span[1]])
            # A repeated field counts once for each parser's idea of which one is meant.
            if _LOCATION in keys:
                names += [v.decode("utf-8", "surrogateescape") for v in values]
    return names, outside


def _fields(model: bytes, at: int, stop: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """(field number, number or span) of one message."""
    while at < stop:
        tag, at = _varint(model, at, stop)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(model, at, stop)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(model, at, stop)
        else:
            # Groups, which onnx.proto does not have, and what is no wire type.
            size = _FIXED_SIZES.get(kind, -1)
        if size < 0 or at + size > stop:
            msg = "its bytes are no readable model"
            raise ExternalDataError(msg)
        if kind == _BYTES:
            yield tag >> 3, (at, at + size)
        at += size


def _varint(model: bytes, at: int, stop: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(model[at : min(at + _MAX_VARINT_BYTES, stop)]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at + index + 1
    msg = "its bytes are no readable model"
    raise ExternalDataError(msg)


def _plain(name: str) -> str:
    """`./weights.bin` is `weights.bin`; nothing else is simplified."""
    return name.removeprefix("./")
