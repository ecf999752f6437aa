"""A sealed window: columns in shuffled storage order, verbatim bytes beside them, a manifest.

columns.arrow     blocks of requests, see `blocks`
verbatim.parquet  row i = storage position i: the exchange as recorded, and seq
manifest.json     WindowInfo, sha256 of the two files, sha256 of itself
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError
from harness.core.places import Place
from harness.core.tensors import (
    NUMPY_DTYPES,
    Array,
    CodedText,
    Decoded,
    Ints,
    Strings,
    Tensors,
    TensorSpec,
)
from harness.core.traffic import Exchange, RequestBatch, WindowInfo
from harness.store.blocks import (
    BLOCK_REQUESTS,
    CONTEXT,
    INPUT,
    RECORDED,
    BlockReader,
    Blocks,
    Taken,
)
from harness.store.exchanges import SCHEMA, exchanges_from_batch
from harness.store.files import COLUMNS_FILE, damage_is_a_traffic_error, sha256_of_file
from harness.store.ids import UNKNOWN
from harness.store.places import is_file
from harness.store.window_index import WindowIndex
from harness.store.window_manifest import changed_content, described, read_manifest

VERBATIM_FILE = "verbatim.parquet"
_SHIFT = BLOCK_REQUESTS.bit_length() - 1
"""A block has a power of two requests."""

_BLOCK_CACHE_BYTES = 64 << 20
_BLOCK_CACHE_BLOCKS = 16


class SealedWindow:
    """Reads a sealed window; memory does not grow with it except by what its index is asked for.

    One thread at a time: blocks that were read are kept without a lock.
    """

    def __init__(self, path: Path, info: WindowInfo, manifest: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self.manifest = manifest
        self._tensors = {INPUT + s.name: s for s in info.inputs} | {
            RECORDED + s.name: s for s in info.recorded
        }
        self._columns_file = str(path / COLUMNS_FILE)
        self._reader = BlockReader(path / COLUMNS_FILE)
        self._words: dict[str, Strings] = {}
        self._blocks: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        # Requests lie in a random order, so blocks are alike in size.
        self._kept = max(
            1, min(_BLOCK_CACHE_BLOCKS, _BLOCK_CACHE_BYTES // self._reader.block_bytes())
        )
        self._index = WindowIndex(self._reader, info.count)

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> SealedWindow:
        """Opens a window folder.

        Args:
          path: the folder.
          verify: hash the files and compare with the manifest.

        Raises:
          TrafficError: no window there, another format version, or content that does not match.
        """
        manifest = read_manifest(path)
        info, files = described(path, manifest)
        if verify:
            for name, digest in files:
                with damage_is_a_traffic_error(str(path / name), "part of a sealed window"):
                    found = sha256_of_file(path / name)
                if found != digest:
                    raise changed_content(path / name)
        with damage_is_a_traffic_error(str(path / COLUMNS_FILE), "Arrow"):
            return cls(path, info, manifest)

    def __len__(self) -> int:
        """Number of requests."""
        return self.info.count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the column file."""
        self._reader.close()

    def index(self) -> WindowIndex:
        """The small columns of all requests."""
        return self._index

    def read(self, positions: Ints) -> RequestBatch:
        """Reads requests at these storage positions, in this order.

        Args:
          positions: each in [0, n), shape (m,); fast when they come from few blocks.

        Raises:
          IndexError: a position outside the window.
        """
        positions = np.asarray(positions, np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(self):
            msg = f"storage positions must be in [0, {len(self)})"
            raise IndexError(msg)
        # Only the wanted requests of a group stay, before the next group's blocks are read.
        taken = Taken(
            [
                (at, Blocks([self._block(n) for n in numbers], self._words).taken(inside))
                for at, inside, numbers in self._groups(positions)
            ],
            len(positions),
        )
        tensors = {
            name: taken.of_rows(name, self._room(name, spec), spec)
            for name, spec in self._tensors.items()
        }
        context = {
            name: taken.of_requests(name, self._room(name))
            for name in (CONTEXT + c for c in self.info.context)
        }
        coded, words = self._coded(tensors), self._coded(context)
        given: dict[str, Array | CodedText] = {**tensors, **coded}
        return RequestBatch(
            seq=taken.of_requests("seq", np.empty(0, np.int64)),
            request_id=taken.texts("request_id"),
            ts_ns=taken.of_requests("ts_ns", np.empty(0, np.int64)),
            rows=taken.rows,
            inputs=Decoded({s.name: given[INPUT + s.name] for s in self.info.inputs}),
            recorded={
                s.name: coded[n].text() if (n := RECORDED + s.name) in coded else tensors[n]
                for s in self.info.recorded
            },
            answered=taken.of_requests("answered", np.empty(0, np.bool_)),
            context=Decoded(
                {
                    c: words[n] if (n := CONTEXT + c) in words else np.asarray(context[n], object)
                    for c in self.info.context
                }
            ),
            coded={
                s.name: coded[INPUT + s.name] for s in self.info.inputs if INPUT + s.name in coded
            },
            coded_context={
                c: words[CONTEXT + c] for c in self.info.context if CONTEXT + c in words
            },
        )

    def _groups(self, positions: Ints) -> Iterator[tuple[Ints | slice, Ints, list[int]]]:
        """Positions by the blocks they lie in, as many blocks at once as are kept in memory.

        Yields:
          Indices into `positions`; where these requests are in the blocks; the blocks' numbers.
        """
        of = positions >> _SHIFT
        present = np.bincount(of, minlength=len(self._reader)) > 0
        numbers = np.flatnonzero(present)
        nth = np.cumsum(present)[of] - 1
        for at in range(0, len(numbers), self._kept):
            some = numbers[at : at + self._kept].tolist()
            taken: Ints | slice = slice(None)
            if len(some) < len(numbers):
                taken = np.flatnonzero((nth >= at) & (nth < at + len(some)))
            # Every block is full but the window's last, which is the last one here, too.
            inside = (nth[taken] - at << _SHIFT) + (positions[taken] & BLOCK_REQUESTS - 1)
            yield taken, inside, some

    def _room(self, name: str, spec: TensorSpec | None = None) -> Array:
        """No values of a column, or no codes of its words."""
        trailing = () if spec is None else tuple(d or 0 for d in spec.shape)
        kind = NUMPY_DTYPES["BYTES" if spec is None else spec.datatype]
        return np.empty((0, *trailing), np.int32 if self._reader.is_coded(name) else kind)

    def _coded(self, tensors: Tensors) -> dict[str, CodedText]:
        """The string columns that came as codes."""
        return {
            name: CodedText(
                codes=codes.astype(np.int32, copy=False),
                words=self._words.get(name, np.empty(0, object)),  # none before a block was read
            )
            for name, codes in tensors.items()
            if self._reader.is_coded(name)
        }

    def exchange(self, request_id: str) -> Exchange:
        """The verbatim exchange of one request.

        Raises:
          TrafficError: the window does not hold that request.
        """
        wanted = np.array([request_id], object)
        position = int(self.index().ids().lookup(wanted)[0])
        if position == UNKNOWN:
            raise TrafficError(
                str(self.path),
                f"no request '{request_id}' in this window",
                "Take an id from the run's pairs or from `harness traffic show`.",
            )
        path = self.path / VERBATIM_FILE
        with (
            damage_is_a_traffic_error(str(path), "Parquet"),
            pq.ParquetFile(path, page_checksum_verification=True) as parquet,
        ):
            counts = [
                parquet.metadata.row_group(g).num_rows
                for g in range(parquet.metadata.num_row_groups)
            ]
            ends = np.cumsum(counts)
            group = int(np.searchsorted(ends, position, side="right"))
            table = parquet.read_row_group(group, columns=SCHEMA.names)
        row = table.slice(position - int(ends[group] - counts[group]), 1)
        return exchanges_from_batch(row.combine_chunks().to_batches()[0])[0]

    def _block(self, number: int) -> pa.RecordBatch:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        with damage_is_a_traffic_error(self._columns_file, "Arrow"):
            block = self._reader.read(number)
        self._blocks[number] = block
        if len(self._blocks) > self._kept:
            self._blocks.popitem(last=False)
        return block


def is_window(path: Place) -> TypeGuard[Path]:
    """Whether a folder is a sealed window (it may still be damaged).

    Raises:
      TrafficError: the folder may not be looked into.
    """
    return isinstance(path, Path) and is_file(path / COLUMNS_FILE)
