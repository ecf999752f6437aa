"""A window's columns as an Arrow IPC file of small blocks.

One block is 1,024 requests: what a read costs goes by blocks and columns, hardly by requests. A tensor column whose requests all carry one row without trailing
dimensions is flat; any other is a list column, rows and trailing dimensions flattened. Strings are
codes into one dictionary per column while it stays small. Read by plain file reads: mapped pages
would count as this process's memory, and a window may be larger than that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.core.tensors import NUMPY_DTYPES, Array, Ints, PackedText, Strings, TensorSpec

BLOCK_REQUESTS = 1024
MOST_WORDS = 65_536
"""A string column with more different values is stored plainly,"""
MOST_WORD_BYTES = 16 << 20
"""and so is one whose different values are longer than this together."""

Kind = TypeVar("Kind", bound=np.generic)

INPUT, RECORDED, CONTEXT = "in:", "out:", "cx:"
PLAIN_COLUMNS = ("seq", "request_id", "ts_ns", "rows", "answered")


def value_type(datatype: str) -> pa.DataType:
    """Arrow type of a tensor's elements."""
    if datatype == "BYTES":
        return pa.string()
    return pa.from_numpy_dtype(NUMPY_DTYPES[datatype])


def elements_per_row(spec: TensorSpec) -> int:
    """Elements one model row has; trailing shapes of a window are fixed."""
    return math.prod(d or 0 for d in spec.shape)


def list_column(values: pa.Array, rows: Ints, elements: int) -> pa.Array:
    """A tensor's flattened values as one list per request."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows * elements)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


@dataclass(slots=True)
class Words:
    """The different values of a string column, until there are too many."""

    seen: set[str] | None
    size: int = 0

    def add(self, values: pa.Array) -> None:
        """Learns the values of more rows."""
        if self.seen is None:
            return
        new = set(pc.unique(values).to_pylist()) - self.seen
        self.seen |= new
        self.size += sum(map(len, new))
        if len(self.seen) > MOST_WORDS or self.size > MOST_WORD_BYTES:
            self.seen = None

    def sorted(self) -> pa.Array | None:
        """The dictionary; None when there are too many words for one."""
        return None if self.seen is None else pa.array(sorted(self.seen), pa.string())


class BlockWriter:
    """Cuts columns into blocks, writes and hashes them.

    Args:
      path: the file to write.
      tensors: column name (with prefix) → its spec.
      context: context column names (with prefix).
      words: per string column its dictionary, or None for a plain column.
      flat: whether every request carries one row.
    """

    def __init__(
        self,
        path: Path,
        *,
        tensors: Mapping[str, TensorSpec],
        context: Sequence[str],
        words: Mapping[str, pa.Array | None],
        flat: bool,
    ) -> None:
        self._tensors = dict(tensors)
        self._words = dict(words)
        self._elements = {c: elements_per_row(s) for c, s in tensors.items()}
        self._flat = {c: flat and not s.shape for c, s in tensors.items()}
        self._names = [*PLAIN_COLUMNS, *tensors, *context]
        self._waiting: dict[str, list[pa.Array]] = {name: [] for name in self._names}
        self._waiting_requests = 0
        self._hash = hashlib.sha256()
        self._schema = self._stored_schema(context)
        self._writer: Any = pa.ipc.new_file(str(path), self._schema)

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Appends requests; tensor columns come flattened, one value an element."""
        for name in self._names:
            values = columns[name]
            words = self._words.get(name)
            if words is not None:
                values = pc.index_in(values, value_set=words)
            self._waiting[name].append(values)
        self._waiting_requests += len(columns["seq"])
        if self._waiting_requests >= BLOCK_REQUESTS:
            self._write(whole_only=True)

    def close(self) -> bytes:
        """Writes the last block.

        Returns:
          The sha256 digest over the columns' values in storage order and the dictionaries.
        """
        self._write(whole_only=False)
        self._writer.close()
        for name, words in self._words.items():
            if words is not None:
                self._hash.update(name.encode() + b"\0" + _string_bytes(words))
        return self._hash.digest()

    def _stored_schema(self, context: Sequence[str]) -> pa.Schema:
        types = [pa.int64(), pa.string(), pa.int64(), pa.int64(), pa.bool_()]
        fields = [pa.field(n, t) for n, t in zip(PLAIN_COLUMNS, types, strict=True)]
        for name, spec in self._tensors.items():
            kind = self._stored_type(name, value_type(spec.datatype))
            fields.append(pa.field(name, kind if self._flat[name] else pa.large_list(kind)))
        fields += [pa.field(name, self._stored_type(name, pa.string())) for name in context]
        return pa.schema(fields)

    def _stored_type(self, name: str, plain: pa.DataType) -> pa.DataType:
        has_words = self._words.get(name) is not None
        return pa.dictionary(pa.int32(), pa.string()) if has_words else plain

    def _write(self, *, whole_only: bool) -> None:
        if not self._waiting_requests:
            return
        columns = {name: pa.concat_arrays(parts) for name, parts in self._waiting.items()}
        rows = columns["rows"].to_numpy()
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
        at = 0
        while at < len(rows) and (not whole_only or len(rows) - at >= BLOCK_REQUESTS):
            upto = min(at + BLOCK_REQUESTS, len(rows))
            self._write_block(self._cut(columns, ends, at, upto), rows[at:upto])
            at = upto
        self._waiting = {
            name: [part] for name, part in self._cut(columns, ends, at, len(rows)).items()
        }
        self._waiting_requests = len(rows) - at

    def _cut(
        self, columns: Mapping[str, pa.Array], ends: Ints, start: int, stop: int
    ) -> dict[str, pa.Array]:
        cut = {}
        for name, values in columns.items():
            first, last = start, stop
            if name in self._elements:
                first, last = (int(ends[k]) * self._elements[name] for k in (start, stop))
            cut[name] = values[first:last]
        return cut

    def _write_block(self, columns: Mapping[str, pa.Array], rows: Ints) -> None:
        stored = []
        for name, values in columns.items():
            self._hash.update(_value_bytes(values))
            words = self._words.get(name)
            column = values if words is None else pa.DictionaryArray.from_arrays(values, words)
            if name in self._elements and not self._flat[name]:
                column = list_column(column, rows, self._elements[name])
            stored.append(column)
        self._writer.write_batch(pa.RecordBatch.from_arrays(stored, schema=self._schema))


def _value_bytes(values: pa.Array) -> bytes:
    if pa.types.is_string(values.type):
        return _string_bytes(values)
    return bytes(values.to_numpy(zero_copy_only=False).tobytes())


def _string_bytes(values: pa.Array) -> bytes:
    lengths: Ints = pc.binary_length(values).to_numpy(zero_copy_only=False).astype("<i8")
    return lengths.tobytes() + "".join(values.to_pylist()).encode()


class Blocks:
    """Some requests' columns; strings of dictionary columns as codes. Arrays are not to be written to.

    Args:
      blocks: as `BlockReader.read` gives them, in storage order.
      words: column name (with prefix) → its dictionary; filled by what is read.
    """

    def __init__(self, blocks: Sequence[pa.RecordBatch], words: dict[str, Strings]) -> None:
        # One column over many blocks costs what one over one block does: the calls, not the bytes.
        self._columns = blocks[0] if len(blocks) == 1 else pa.concat_batches(blocks)
        self._words = words

    def taken(self, requests: Ints) -> Blocks:
        """These requests in this order, shape (m,), each in the blocks; nothing else stays in memory."""
        # All columns in one call; positions were checked.
        columns = pc.take(self._columns, pa.array(requests), boundscheck=False)
        return Blocks([columns], self._words)

    def packed(self, name: str) -> PackedText:
        """A plain string column, shape (m,); its own bytes only."""
        column = self._columns.column(name)
        _, offsets, data = column.buffers()
        return PackedText(
            offsets=np.frombuffer(offsets, np.int32)[column.offset :][: len(column) + 1],
            data=np.frombuffer(data or b"", np.uint8),
        )

    def values(self, name: str, spec: TensorSpec | None = None) -> Array:
        """A column of requests (m,), a tensor (R, *trailing), or int32 codes of that shape."""
        column = self._columns.column(name)
        if pa.types.is_large_list(column.type):
            column = column.flatten()
        if pa.types.is_dictionary(column.type):
            if name not in self._words:
                self._words[name] = column.dictionary.to_numpy(zero_copy_only=False)
            column = column.indices
        values: Array = column.to_numpy(zero_copy_only=False)
        trailing = () if spec is None else tuple(d or 0 for d in spec.shape)
        return values.reshape(-1, *trailing) if trailing else values


class Taken:
    """Requests out of several groups of blocks, in the order in which they were asked for.

    Args:
      parts: where requests come in that order, and their columns.
      count: requests in all.
    """

    def __init__(self, parts: Sequence[tuple[Ints | slice, Blocks]], count: int) -> None:
        self._parts = parts
        self._count = count
        self.rows = self.of_requests("rows", np.empty(0, np.int64))
        """Model rows of each request, shape (count,)."""
        self._starts = np.cumsum(self.rows) - self.rows

    def of_requests(self, name: str, none: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
        """A column with one value a request.

        Args:
          name: of the column, with its prefix.
          none: the column of no requests.
        """
        if len(self._parts) == 1:
            return self._parts[0][1].values(name).astype(none.dtype, copy=False)
        found = np.empty(self._count, none.dtype)
        for at, blocks in self._parts:
            found[at] = blocks.values(name)
        return found

    def texts(self, name: str) -> Strings | PackedText:
        """A plain string column with one value a request."""
        if len(self._parts) == 1:
            return self._parts[0][1].packed(name)
        return self.of_requests(name, np.empty(0, object))

    def of_rows(self, name: str, none: Array, spec: TensorSpec) -> Array:
        """A tensor; `none` as above, shape (0, *trailing)."""
        if len(self._parts) == 1:
            return self._parts[0][1].values(name, spec)
        found = np.empty((int(self.rows.sum()), *none.shape[1:]), none.dtype)
        for at, blocks in self._parts:
            found[_row_indices(self._starts[at], self.rows[at])] = blocks.values(name, spec)
        return found


def _row_indices(starts: Ints, rows: Ints) -> Ints:
    """start, start+1, … for each request, one after another."""
    if len(rows) and rows.min() == rows.max() == 1:
        return starts
    begun = np.cumsum(rows) - rows
    return np.repeat(starts - begun, rows) + np.arange(int(rows.sum()))


def _is_coded(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_large_list(kind) else kind
    return bool(pa.types.is_dictionary(inner))


class BlockReader:
    """Reads blocks of a window's column file.

    Args:
      path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pa.OSFile(str(path))
        self._reader = pa.ipc.open_file(self._file)
        self._coded = {field.name: _is_coded(field.type) for field in self._reader.schema}

    def __len__(self) -> int:
        """Number of blocks."""
        return int(self._reader.num_record_batches)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def is_coded(self, column: str) -> bool:
        """Whether a string column is stored as codes into a dictionary."""
        return self._coded[column]

    def read(self, block: int) -> pa.RecordBatch:
        """Reads one block."""
        return self._reader.get_batch(block)

    def block_bytes(self) -> int:
        """Bytes of a block, on average; at least 1."""
        return max(1, int(self._file.size()) // max(1, len(self)))

    def columns(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Reads only these columns of every block, in storage order.

        Raises:
          KeyError: no such column.
        """
        stored = self._reader.schema.names
        for name in names:
            if name not in stored:
                raise KeyError(name)
        fields = [stored.index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        with pa.OSFile(str(self._path)) as opened:
            reader = pa.ipc.open_file(opened, options=options)
            for block in range(reader.num_record_batches):
                batch = reader.get_batch(block)
                # Arrow reads whole blocks, and a column of one keeps all of its bytes alive: a copy
                # lets them go, or the small columns of a window would hold the window in memory.
                yield batch.take(pa.array(np.arange(len(batch))))
