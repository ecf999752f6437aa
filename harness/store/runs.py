"""The run folder: everything one gate leaves behind, written so that a kill loses no saved step.

    manifest.json, decision.json, …   replaced in one step
    pairs/00000.parquet …             one file a chunk of requests
    quarantine/                       requests that fail by themselves, with their inputs
    state.npz                         what the gate needs to go on: next chunk, arrays, plain values
    .run                              says that the folder is a run; the writer holds a lock on it

Pairs count once the state that follows them is saved: after a kill, chunks at or beyond the saved
`next_chunk` are as if they had never been written.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import time
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from harness.core.errors import GateError, UsageError
from harness.core.jsonable import jsonable
from harness.core.quarantine import Quarantined
from harness.core.tensors import Array, Columns
from harness.store.files import locked, replaced, write_atomically
from harness.store.pairs import TableWriter, read_table
from harness.store.quarantine import Note, read_notes, write_quarantined

State = tuple[int, dict[str, Array], Any]
"""(next chunk, arrays, plain values)."""

_MARKER = ".run"
_LOCK = ".lock"
_FORMAT = b"harness-run 1\n"
_STATE = "state.npz"
_PAIRS = "pairs"
_ARRAYS = "arrays"
_LOOKED_AT_S, _LOOK_AGAIN_S = 10.0, 0.01
_NEXT_CHUNK, _META = "next_chunk", "meta"
_WRITE_BYTES = 1 << 16


class RunFolder:
    """One run's folder. `create` and `open(write=True)` hold its lock until `close`."""

    def __init__(self, path: Path, lock: ExitStack | None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Makes a new run folder and locks it.

        Raises:
          UsageError: the folder holds something, or is a file, or cannot be made.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            is_run = path.is_dir() and (path / _MARKER).exists()
            raise UsageError(
                str(path),
                "already holds a run" if is_run else "exists and is not an empty folder",
                "Name a new folder" + (", or resume this run." if is_run else "."),
            )
        try:
            (path / _PAIRS).mkdir(parents=True, exist_ok=True)  # the lock tells two gates apart
            lock = _lock(path)
            write_atomically(path / _MARKER, _FORMAT)
        except OSError as error:
            raise UsageError(
                str(path),
                f"a run cannot be written there: {error.strerror}",
                "Name another folder.",
            ) from error
        return cls(path, lock)

    @classmethod
    def open(cls, path: Path, *, write: bool = False, mend: bool = False) -> RunFolder:
        """Opens a run folder.

        Args:
          path: the folder.
          write: lock it and drop what a killed writer left unfinished.
          mend: write the mark of a run folder where it is missing; the caller knows that it is one.

        Raises:
          UsageError: no run there, of another version, or another process is writing it.
        """
        try:
            if mend and not (path / _MARKER).exists():
                write_atomically(path / _MARKER, _FORMAT)
            marker = (path / _MARKER).read_bytes()
        except OSError:
            raise UsageError(
                str(path), "no run folder", "Give the folder that `harness gate --out` wrote."
            ) from None
        if marker != _FORMAT:
            raise UsageError(
                str(path), "a run of another version", "Use the version that wrote it."
            )
        if not write:
            return cls(path, None)
        run = cls(path, _lock(path))
        run._drop_unfinished()
        return run

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
        """Gives the lock back; a folder open for reading has none."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def has(self, name: str) -> bool:
        """Whether the run has this file."""
        return self._file(name).is_file()

    def write_json(self, name: str, value: object) -> None:
        """Writes a value as JSON (see `core.jsonable`): the whole file or nothing."""
        text = json.dumps(jsonable(value), indent=1, ensure_ascii=False, allow_nan=False)
        self.write_text(name, text + "\n")

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - whatever was written
        """Reads what `write_json` wrote, as plain values.

        Raises:
          UsageError: the run has no such file, or it is no JSON.
        """
        file = self._file(name)
        try:
            return json.loads(file.read_bytes())
        except OSError:
            raise UsageError(
                str(self.path), f"no {name} in this run", "The run ended before that step."
            ) from None
        except ValueError:
            raise UsageError(str(file), "is no JSON", "The file was changed; run again.") from None

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file: the whole file or nothing."""
        self._must_hold_lock()
        write_atomically(self._file(name), text.encode())

    def quarantine(self, item: Quarantined) -> None:
        """Saves a request that fails by itself, with its inputs."""
        self._must_hold_lock()
        write_quarantined(self.path, item)

    def quarantined(self) -> tuple[Note, ...]:
        """The requests in quarantine."""
        return read_notes(self.path)

    def pairs_writer(self, chunk: int) -> TableWriter:
        """Writes one chunk of pairs, in place of an earlier one with its number.

        Args:
          chunk: number of the chunk, from 0.
        """
        self._must_hold_lock()
        return TableWriter(self._chunk_path(chunk))

    def write_table(self, name: str, table: Columns) -> None:
        """Writes a table beside the pairs, whole or not at all; columns as in `TableWriter.add`."""
        self._must_hold_lock()
        with TableWriter(self._file(name)) as writer:
            writer.add(table)

    def pairs_chunks(self) -> tuple[int, ...]:
        """Numbers of the chunks that the saved state covers; none before a state is saved."""
        state = self.load_state()
        next_chunk = state[0] if state else 0
        return tuple(n for n in self._chunks_on_disk() if n < next_chunk)

    def read_pairs(self, chunk: int, columns: Sequence[str] | None = None) -> dict[str, Array]:
        """Reads one chunk of pairs.

        Args:
          chunk: its number.
          columns: which to read; None = all.

        Raises:
          TrafficError: no such chunk, or it is damaged.
        """
        return read_table(self._chunk_path(chunk), columns)

    def read_table(self, name: str) -> dict[str, Array]:
        """Reads what `write_table` wrote.

        Raises:
          TrafficError: no such table, or it is damaged.
        """
        return read_table(self._file(name))

    def save_state(self, next_chunk: int, arrays: dict[str, Array], meta: object) -> None:
        """Saves what the gate needs to go on, in place of the former state.

        Args:
          next_chunk: chunks below it are done.
          arrays: numbers, bools or fixed-width strings, any shape; kept bit for bit.
          meta: plain values (dict, list, str, int, float, None); infinities and NaN come back.

        Raises:
          GateError: an object array.
        """
        self._must_hold_lock()
        for name, values in arrays.items():
            if values.dtype.hasobject:
                raise GateError(
                    _STATE, f"array '{name}' holds Python objects", "Save strings as a U array."
                )
        # One array of bytes with an index: an entry of its own for each would cost more than it holds.
        index = {name: [v.dtype.str, v.shape] for name, v in arrays.items()}
        text = json.dumps([index, meta], default=jsonable)
        with replaced(self.path / _STATE) as file, zipfile.ZipFile(file, "w") as archive:
            _write_bytes(archive, _ARRAYS, list(arrays.values()))
            _write_bytes(archive, _META, [np.frombuffer(text.encode(), np.uint8)])
            with archive.open(f"{_NEXT_CHUNK}.npy", "w") as member:
                np.save(member, np.array(next_chunk))

    def load_state(self) -> State | None:
        """What `save_state` saved last; None when nothing was saved.

        Raises:
          UsageError: the state was damaged.
        """
        path = self.path / _STATE
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
                index, meta = json.loads(saved[_META].tobytes())
                return int(saved[_NEXT_CHUNK]), _unpacked(index, saved[_ARRAYS]), meta
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise UsageError(
                str(path), "the saved state is damaged", "Start again in a new folder."
            ) from None

    def _file(self, name: str) -> Path:
        if not name or name != Path(name).name or name.startswith("."):
            raise GateError(str(self.path), f"'{name}' is no plain file name", "Name one file.")
        return self.path / name

    def _chunk_path(self, chunk: int) -> Path:
        return self.path / _PAIRS / f"{chunk:05d}.parquet"

    def _chunks_on_disk(self) -> list[int]:
        names = (p.stem for p in (self.path / _PAIRS).glob("*.parquet"))
        return sorted(int(stem) for stem in names if stem.isdecimal())

    def _drop_unfinished(self) -> None:
        covered = set(self.pairs_chunks())
        for chunk in self._chunks_on_disk():
            if chunk not in covered:
                self._chunk_path(chunk).unlink()
        for begun in [*self.path.glob(".*.tmp"), *(self.path / _PAIRS).glob(".*.tmp")]:
            begun.unlink()

    def _must_hold_lock(self) -> None:
        if self._lock is None:
            raise GateError(
                str(self.path), "not open for writing", "Use RunFolder.open(path, write=True)."
            )


def _write_bytes(archive: zipfile.ZipFile, name: str, parts: Sequence[Array]) -> None:
    """Writes the bytes of arrays as one array of them, as `numpy.savez` would; never all are there twice."""
    size = sum(part.nbytes for part in parts)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (size,)}
        np.lib.format.write_array_header_1_0(member, header)
        # Hundreds of them are small, and each write to an archive costs more than a small one's bytes.
        with io.BufferedWriter(member, _WRITE_BYTES) as buffered:
            for part in parts:
                buffered.write(part.tobytes())


def _unpacked(index: dict[str, list[Any]], packed: Array) -> dict[str, Array]:
    """Arrays by name, each with memory of its own.

    Raises:
      ValueError: the bytes are not those of the index.
    """
    arrays: dict[str, Array] = {}
    body, at = packed.tobytes(), 0
    for name, (kind, shape) in index.items():
        dtype = np.dtype(kind)
        count = math.prod(shape)
        arrays[name] = np.frombuffer(body, dtype, count, at).reshape(shape).copy()
        at += count * dtype.itemsize
    if at != len(body):
        msg = f"{len(body)} bytes for arrays of {at}"
        raise ValueError(msg)
    return arrays


def is_written(path: Path) -> bool:
    """Whether a process holds a run folder's lock at this moment.

    Args:
      path: the folder.
    """
    try:
        with (path / _LOCK).open("rb") as handle:
            # Shared, and for an instant only: several may look at once.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(path: Path) -> ExitStack:
    until = time.monotonic() + _LOOKED_AT_S
    while True:
        stack = ExitStack()
        if stack.enter_context(locked(path / _LOCK, wait=False)):
            return stack
        stack.close()
        # Somebody who only looks is in the way, too: for an instant, or a pause of the machine.
        if is_written(path) or time.monotonic() > until:
            raise UsageError(
                str(path),
                "another process is writing this run",
                "Wait until it ends, or name another folder.",
            )
        time.sleep(_LOOK_AGAIN_S)
