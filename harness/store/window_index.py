"""The small columns of a whole sealed window, in storage order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from harness.core.tensors import Array, Ints, Strings
from harness.store.blocks import CONTEXT, BlockReader
from harness.store.ids import IdIndex


class WindowIndex:
    """The whole window's small columns in storage order.

    Plain columns are read whenever they are asked for and never kept: they grow with the window.

    Args:
      reader: of the window's column file.
      count: requests in it.
    """

    def __init__(self, reader: BlockReader, count: int) -> None:
        self._reader = reader
        self._count = count
        self._cache: dict[str, Any] = {}

    def __len__(self) -> int:
        """Number of requests."""
        return self._count

    def seq(self) -> Ints:
        """Original positions in the traffic, shape (n,)."""
        return self._plain("seq")

    def ts_ns(self) -> Ints:
        """When each request arrived, shape (n,)."""
        return self._plain("ts_ns")

    def ts_parts(self) -> Iterator[Ints]:
        """The same, some requests at a time."""
        for block in self._reader.columns(["ts_ns"]):
            yield block.column(0).to_numpy()

    def without_rows(self) -> int:
        """How many requests have no row."""
        return sum(int((rows == 0).sum()) for rows in self._rows())

    def of_other_rows(self, count: int) -> int:
        """How many requests have not exactly so many rows."""
        return sum(int((rows != count).sum()) for rows in self._rows())

    def _rows(self) -> Iterator[Ints]:
        for block in self._reader.columns(["rows"]):
            yield block.column(0).to_numpy()

    def _plain(self, name: str) -> Ints:
        found = np.empty(self._count, np.int64)
        at = 0
        for block in self._reader.columns([name]):
            found[at : at + len(block)] = block.column(0).to_numpy()
            at += len(block)
        return found

    def request_ids(self) -> Strings:
        """Request ids, shape (n,); read when first asked for."""
        return self.ids().ids()

    def ids(self) -> IdIndex:
        """Request id → storage position; built when first asked for."""
        if "ids" not in self._cache:
            parts = [b.column(0) for b in self._reader.columns(["request_id"])]
            joined = pa.chunked_array(parts, pa.string()).cast(pa.large_string())
            self._cache["ids"] = IdIndex(joined.combine_chunks())
        found: IdIndex = self._cache["ids"]
        return found

    def context(self, column: str) -> tuple[Array, Strings]:
        """A context column as codes, shape (n,) int32, and the words they stand for.

        Raises:
          KeyError: no such context column in the window.
        """
        if column not in self._cache:
            self._cache[column] = self._read_context(column)
        found: tuple[Array, Strings] = self._cache[column]
        return found

    def _read_context(self, column: str) -> tuple[Array, Strings]:
        parts = [
            c if pa.types.is_dictionary((c := b.column(0)).type) else c.dictionary_encode()
            for b in self._reader.columns([CONTEXT + column])
        ]
        if not parts:
            return np.empty(0, np.int32), np.empty(0, object)
        encoded = pa.chunked_array(parts).unify_dictionaries()
        codes = np.concatenate([c.indices.to_numpy() for c in encoded.chunks])
        words = encoded.chunk(0).dictionary.to_numpy(zero_copy_only=False)
        return codes.astype(np.int32, copy=False), words
