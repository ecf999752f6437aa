"""Tables of one row a request as Parquet files: written while their rows come, read group by group.

Rows that wait are in memory, and what Arrow and Parquet make of them is there beside them: so a file is
written some thousand rows at a time, and has its name only once it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import GateError
from harness.core.tensors import Array, CodedText, Columns, PackedText
from harness.store.files import damage_is_a_traffic_error, publish

_WHERE = "pairs"
_ID = "request_id"
_TEXT = "BYTE_ARRAY"
_GROUP_ROWS = 32_768
"""Rows that may wait; a group costs a fifth of a millisecond a column, however small it is."""


class TableWriter:
    """Writes one table, part after part; `close` gives the file its name.

    Args:
      final: the file, once it is whole.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self._temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        self._waiting: list[Columns] = []
        self._rows = 0
        self._coded: set[str] = set()
        self._writer: Any = None

    def add(self, part: Columns) -> None:
        """Appends rows.

        Args:
          part: numbers, bools, object arrays of str, or text as codes; the columns of the parts before.

        Raises:
          GateError: a column that is no such thing.
        """
        self._waiting.append(part)
        self._rows += next(iter(part.values())).shape[0]
        if self._rows >= _GROUP_ROWS:
            self._write()

    def close(self) -> None:
        """Writes what waits and publishes the file; without any part there is none."""
        self._write()
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        publish(self._temporary, self._final)

    def drop(self) -> None:
        """Leaves nothing behind."""
        self._waiting.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._temporary.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close() if error is None else self.drop()

    def _write(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            # Codes stay codes where the first parts have them.
            parts = self._waiting
            self._coded = {n for n in parts[0] if all(isinstance(p[n], CodedText) for p in parts)}
        table = self._joined()
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._temporary,
                table.schema,
                # zstd takes half as long again for two thirds of the bytes; nobody reads the statistics.
                compression="lz4",
                # A float dictionary would make one of all NaNs and one of 0.0 and -0.0.
                use_dictionary=_words(table.schema) or False,
                column_encoding=_split(table.schema),
                write_statistics=False,
                write_page_checksum=True,
                write_batch_size=_GROUP_ROWS,
                # Text that came as codes is read back as text.
                store_schema=False,
            )
        self._writer.write_table(table)

    def _joined(self) -> pa.Table:
        """What waits as one table; nothing waits any more, so that it is in memory once."""
        parts, self._waiting, self._rows = self._waiting, [], 0
        joined = pa.concat_tables([_table(part, self._coded) for part in parts])
        # Piece by piece, as the batches came: one piece of each column would be all of it once more.
        return joined.unify_dictionaries()


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, Array]:
    """Reads what a `TableWriter` wrote.

    Args:
      path: the file.
      columns: which to read; None = all.

    Raises:
      TrafficError: no such table, or it is damaged.
    """
    # Not pq.read_table: it loads all that Arrow has for data sets of many files.
    with damage_is_a_traffic_error(str(path), "Parquet"):
        metadata = pq.read_metadata(path)
        # Not from metadata.schema: each one that was looked at stays in memory, 70 kB (pyarrow 25).
        stored = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
        texts = [c.path_in_schema for c in stored if c.physical_type == _TEXT]
        words = [name for name in texts if name != _ID]
        with pq.ParquetFile(
            path, metadata=metadata, read_dictionary=words, page_checksum_verification=True
        ) as opened:
            wanted = None if columns is None else list(columns)
            groups = [
                _arrays(opened.read_row_group(group, columns=wanted, use_threads=False))
                for group in range(opened.num_row_groups)
            ]
    _give_back()
    # Column by column, so that only one is there twice.
    return {name: np.concatenate([group.pop(name) for group in groups]) for name in [*groups[0]]}


def _give_back() -> None:
    """Returns what Arrow keeps for later: chunk after chunk it would only grow."""
    pa.default_memory_pool().release_unused()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_dictionary(kind))


def _words(schema: pa.Schema) -> list[str]:
    """The text columns that are written as words and codes; ids are all different."""
    return [field.name for field in schema if _is_text(field.type) and field.name != _ID]


def _split(schema: pa.Schema) -> dict[str, str]:
    """The columns of 64-bit numbers, written as all first bytes, then all second ones.

    A quarter fewer bytes after compression, which takes a quarter less time for it.
    """
    return {f.name: "BYTE_STREAM_SPLIT" for f in schema if f.type in (pa.int64(), pa.float64())}


def _arrays(table: pa.Table) -> dict[str, Array]:
    """Columns for numpy; rows with the same word share one text."""
    found: dict[str, Array] = {}
    for name, chunked in zip(table.column_names, table.columns, strict=True):
        column = chunked.combine_chunks()
        if isinstance(column, pa.DictionaryArray) and not column.null_count:
            words = column.dictionary.to_numpy(zero_copy_only=False)
            found[name] = words[column.indices.to_numpy()]
        else:
            found[name] = column.to_numpy(zero_copy_only=False)
    return found


def _table(part: Columns, coded: Collection[str]) -> pa.Table:
    """Columns for Arrow; text as codes only where it is to be."""
    fields, columns = [], []
    for name, values in part.items():
        column = _column(name, values)
        is_coded = pa.types.is_dictionary(column.type)
        if is_coded and name not in coded:
            column = column.dictionary_decode()
        elif name in coded and not is_coded:
            column = column.dictionary_encode()
        # No column has gaps (NaN is a number): saying so spares Parquet to note that for every row.
        fields.append(pa.field(name, column.type, nullable=False))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _column(name: str, values: Array | CodedText | PackedText) -> pa.Array:
    if isinstance(values, PackedText):
        buffers = (pa.py_buffer(part) for part in (values.offsets, values.data))
        return pa.StringArray.from_buffers(len(values), *buffers)
    if isinstance(values, CodedText):
        return pa.DictionaryArray.from_arrays(values.codes, pa.array(values.words, pa.string()))
    if values.ndim != 1:
        raise GateError(_WHERE, f"column '{name}' has shape {values.shape}", "Give one axis.")
    if values.dtype.kind not in "OU":
        return pa.array(values)
    try:
        # Without a type Arrow looks at every value itself, which is quicker than asking each here.
        column = pa.array(values if len(values) else [""][:0], None if len(values) else pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        column = None
    if column is None or not pa.types.is_string(column.type) or column.null_count:
        raise GateError(_WHERE, f"column '{name}' holds more than str", "Give strings only.")
    return column
