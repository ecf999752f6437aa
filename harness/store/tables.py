"""Whatever is given as traffic → a sealed window.

A table becomes exchanges first (one Open Inference request a row, no response), so that everything
behind it, capsules too, knows one form of traffic only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError
from harness.core.jsonable import sha256
from harness.core.places import Place
from harness.core.tensors import Ints, Signature
from harness.core.traffic import OK_CODE
from harness.store.exchanges import SCHEMA
from harness.store.files import damage_is_a_traffic_error, sha256_of_file
from harness.store.ids import hashes
from harness.store.table_batches import MADE_UP_ID, in_batches, together
from harness.store.table_files import pieces
from harness.store.table_pieces import ID, Piece
from harness.store.traffic import TrafficSource
from harness.store.windows import Progress, SealedWindow, is_window, seal_cached
from harness.wire import MODEL_INFER
from harness.wire.messages import MessageError, request_bytes
from harness.wire.rows import requests_from_rows

_TABLE_SUFFIXES = {".npz", ".jsonl"}
_MODEL = "table"
_SHOWN = 80
"""Characters of an id that a message shows."""


def open_traffic(
    paths: Sequence[Place],
    cache_dir: Path,
    taken: Signature | None = None,
    progress: Progress | None = None,
) -> SealedWindow:
    """Opens traffic of any kind as a sealed window.

    Args:
      paths: one sealed window; or folders and files of recorded exchanges; or tables of inputs
        (.npz, .parquet, .jsonl).
      cache_dir: where windows are kept; made when missing.
      taken: what the model takes; tables are cast to it when that loses nothing, and tables of bare rows are put
        together to requests where it takes batches of one size only.
      progress: called while sealing.

    Raises:
      TrafficError: what is there cannot be used; where, why and what to do.
    """
    windows = [p for p in paths if isinstance(p, Path) and is_window(p)]
    if windows:
        if len(paths) > 1:
            raise TrafficError(
                str(windows[0]), "a sealed window beside other traffic", "Give the window alone."
            )
        return SealedWindow.open(windows[0].resolve())
    cache_dir = cache_dir.resolve()
    tables = [p for p in paths if isinstance(p, Path) and is_table(p)]
    if not tables:
        return seal_cached(TrafficSource.open(paths), cache_dir, progress=progress)
    if len(tables) < len(paths):
        raise TrafficError(
            str(tables[0]),
            "a table beside recorded traffic",
            "Give tables or recordings, not both.",
        )
    source = TableSource(tables, taken)
    return seal_cached(source, cache_dir, variant=source.variant, progress=progress)


def is_table(path: Path) -> bool:
    """Whether a file is a table of inputs; a .parquet file without recorded requests is one.

    Raises:
      TrafficError: a damaged .parquet file.
    """
    if not path.is_file():
        return False
    if path.suffix == ".parquet":
        with damage_is_a_traffic_error(str(path), "Parquet"):
            return not {"request", "response"} & set(pq.read_schema(path).names)
    if path.suffix not in _TABLE_SUFFIXES:
        raise TrafficError(
            str(path), "neither traffic nor a table", "Give a folder, .parquet, .npz or .jsonl."
        )
    return True


class TableSource:
    """Tables as a source of exchanges: request ids row-0, row-1 … unless the table has its own.

    Args:
      paths: .npz, .parquet and .jsonl files, read one after another.
      taken: what the model takes; None takes the columns as they are.

    Raises:
      TrafficError: a table cannot be read, or its columns are not the model's inputs.
    """

    def __init__(self, paths: Sequence[Path], taken: Signature | None) -> None:
        self.together = 0
        """Rows of the tables that make a request; 0 = each request is as it was given."""
        self._paths = tuple(paths)
        self._specs = None if taken is None else {s.name: s for s in taken.inputs}
        self._hashes = tuple((p.name, sha256_of_file(p)) for p in self._paths)
        rows = taken.batch_rows if taken else 0
        if rows > 1:
            self.together = together(self._pieces(), rows)
        # One pass before sealing: counts rows, and finds every error before anything is written.
        self._count = self._checked()

    def __len__(self) -> int:
        """Requests in all tables."""
        return self._count

    @property
    def size_bytes(self) -> int:
        """Bytes as messages, about: descriptors weigh as much as small rows."""
        return sum(p.stat().st_size for p in self._paths) + 1024 * self._count

    @property
    def variant(self) -> str:
        """What else than the files decides the requests: the types they are cast to, and rows put together."""
        specs = list(self._specs.values()) if self._specs is not None else None
        return sha256([specs, self.together] if self.together else specs)

    def files(self) -> tuple[tuple[str, str], ...]:
        """(name, sha256 hex) of each table."""
        return self._hashes

    def not_recorded(self) -> tuple[tuple[str, int], ...]:
        """Nothing: no recorder made a table."""
        return ()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows as exchanges; see `sealing.ExchangeSource`."""
        fields = [f for f in SCHEMA if columns is None or f.name in columns]
        start = 0
        for path, piece in self._pieces():
            yield _batch(str(path), piece, start, fields)
            start += piece.count

    def _checked(self) -> int:
        """How many rows there are, once no two of them have the same id.

        Raises:
          TrafficError: of two rows with one id sealing would drop one.
        """
        count, keys = 0, []
        for _, piece in self._pieces():
            keys.append(hashes(_ids(piece, count)))
            count += piece.count
        unique, times = np.unique(
            np.concatenate([np.empty(0, np.int64), *keys]), return_counts=True
        )
        if (times > 1).any():
            self._check_ids(unique[times > 1])
        return count

    def _check_ids(self, suspects: Ints) -> None:
        """Refuses ids that occur twice, of those whose hash does."""
        first: dict[str, int] = {}
        start = 0
        for path, piece in self._pieces():
            ids = _ids(piece, start)
            for k in np.flatnonzero(np.isin(hashes(ids), suspects)).tolist():
                at = first.setdefault(ids[k], start + k)
                if ids[k] and at != start + k:
                    raise TrafficError(
                        str(path),
                        f"rows {at} and {start + k} (from 0) have the same {ID} '{ids[k][:_SHOWN]}'",
                        f"Give each row its own {ID}, or drop the column: rows are numbered then.",
                    )
            start += piece.count

    def _pieces(self) -> Iterator[tuple[Path, Piece]]:
        given = ((path, piece) for path in self._paths for piece in pieces(path, self._specs))
        return in_batches(given, self.together) if self.together else given


def _batch(where: str, piece: Piece, start: int, fields: Sequence[pa.Field]) -> pa.RecordBatch:
    n = piece.count
    ids = _ids(piece, start)
    wanted = {f.name for f in fields}
    columns: dict[str, object] = {
        "ts_ns": np.zeros(n, np.int64) if piece.ts_ns is None else piece.ts_ns,
        "latency_ns": np.zeros(n, np.int64),
        "code": np.full(n, OK_CODE, np.int32),
        "method": [MODEL_INFER] * n,
        "model": [_MODEL] * n,
        "version": [""] * n,
        "request_id": ids,
        "request": _requests(where, piece, ids) if "request" in wanted else [],
        "response": [b""] * n,
        "metadata": [[]] * n,
        "context": [[(c, v[i]) for c, v in piece.context.items()] for i in range(n)],
        "trace_id": [""] * n,
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[f.name], f.type) for f in fields], schema=pa.schema(list(fields))
    )


def _ids(piece: Piece, start: int) -> list[str]:
    """The rows' own ids, or their places."""
    return piece.request_id or [f"{MADE_UP_ID}{start + i}" for i in range(piece.count)]


def _requests(where: str, piece: Piece, ids: Sequence[str]) -> list[bytes]:
    rows = {n: v for n, v in piece.inputs.items() if not isinstance(v, list)}
    try:
        if len(rows) == len(piece.inputs):
            return requests_from_rows(_MODEL, rows, ids)
        return [
            request_bytes(
                _MODEL,
                {n: v[i] if isinstance(v, list) else v[i : i + 1] for n, v in piece.inputs.items()},
                request_id,
            )
            for i, request_id in enumerate(ids)
        ]
    except MessageError as error:
        raise TrafficError(
            f"{where}, rows from {ids[0]} on", error.reason, "Correct the table's values."
        ) from None
