"""Sealing: recorded exchanges → a window, read once, decoded once, in flat memory.

    survey   ids that occur twice, context columns            (two columns of the source)
    deal     the rows go into shuffled buckets                (`shuffle`)
    decode   bucket by bucket → verbatim bytes in final order, columns into a spill file
    encode   spill file → blocks, now that words and row counts are known

Everything is built in a folder beside the target and renamed, so that a window is there whole or
not at all.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.core.errors import TrafficError
from harness.core.jsonable import sha256
from harness.core.recording import BESIDE_SAMPLE
from harness.core.tensors import Ints
from harness.store.decoding import SEQ_SCHEMA, Decoding, Tally
from harness.store.exchanges import context_columns
from harness.store.files import COLUMNS_FILE, locked, publish, sha256_of_file
from harness.store.ids import hashes
from harness.store.sealed import VERBATIM_FILE, SealedWindow
from harness.store.shuffle import Shuffle
from harness.store.window_manifest import FORMAT_VERSION, MANIFEST_FILE, manifest_bytes

Progress = Callable[[int, int], None]
"""Called with (exchanges done, exchanges in all)."""

_CHUNK_ROWS = 1024
_CHUNK_BYTES = 16 << 20
_MOST_CONTEXT_COLUMNS = 64
_NAMES_KEPT = 50


class ExchangeSource(Protocol):
    """Where exchanges come from: recorded files, or a table turned into exchanges."""

    @property
    def together(self) -> int:
        """Rows of a table that were put together to a request; 0 = each request is as it was given."""

    def __len__(self) -> int:
        """Exchanges in all."""

    @property
    def size_bytes(self) -> int:
        """Bytes in memory, about."""

    def files(self) -> tuple[tuple[str, str], ...]:
        """(name, sha256 hex) of what is read."""

    def not_recorded(self) -> tuple[tuple[str, int], ...]:
        """(reason, count) of requests that its recorders saw and did not record."""

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The exchanges in a fixed order, as batches of `exchanges.SCHEMA`."""


def seal(
    source: ExchangeSource, out: Path, *, seed: int, progress: Progress | None = None
) -> SealedWindow:
    """Seals a source into a new folder.

    Args:
      source: the exchanges.
      out: the folder to make.
      seed: of the storage order; equal sources and seeds give equal windows.
      progress: called while decoding.

    Raises:
      TrafficError: `out` is taken, or the source is damaged.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TrafficError(str(out), "already exists", "Name a new folder for the window.")
    with _workshop(out) as work:
        _build(source, work, seed, progress)
        publish(work, out)
    return SealedWindow.open(out, verify=False)


def seal_cached(
    source: ExchangeSource,
    cache_dir: Path,
    *,
    seed: int | None = None,
    variant: str = "",
    progress: Progress | None = None,
) -> SealedWindow:
    """Opens the source's window in a cache, sealing it when it is not there or damaged.

    Processes that want the same window at once build it once.

    Args:
      source: the exchanges; the window is found by the sha256 of its files.
      cache_dir: made when missing.
      seed: of the storage order; by default drawn from the source's hashes.
      variant: whatever else than the files decides what the source gives.
      progress: called while decoding.

    Raises:
      TrafficError: the source is damaged.
    """
    content = {"files": source.files(), "format": FORMAT_VERSION, "seed": seed, "variant": variant}
    drawn = int(sha256(content)[:16], 16) if seed is None else seed
    # What recorders say later of the same files is told with the same window, in the same order.
    key = sha256({**content, "not_recorded": source.not_recorded()})
    out = cache_dir / key[:32]
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrafficError(
            str(cache_dir),
            f"sealed windows cannot be kept there: {error.strerror}",
            "Name a writable folder with --cache.",
        ) from error
    with locked(cache_dir / f"{out.name}.lock", wait=True):
        try:
            return SealedWindow.open(out)
        except TrafficError:
            shutil.rmtree(out, ignore_errors=True)
        for abandoned in cache_dir.glob(f".{out.name}.*.tmp"):  # of processes that were killed
            shutil.rmtree(abandoned, ignore_errors=True)
        return seal(source, out, seed=drawn, progress=progress)


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{out.name}.{os.getpid()}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(source: ExchangeSource, work: Path, seed: int, progress: Progress | None) -> None:
    spill = work / "spill"
    spill.mkdir()
    survey = _survey(source)
    counts = Tally()
    shuffle = Shuffle(
        spill, SEQ_SCHEMA, len(source), source.size_bytes, np.random.default_rng(seed)
    )
    shuffle.deal(_numbered(source, survey, counts))
    decoding = Decoding(work, spill / "decoded.arrows", shuffle, survey.context, counts)
    done = 0
    for table in shuffle.drain():
        for chunk in _chunks(table):
            decoding.add(chunk)
        done += len(table)
        if progress is not None:
            progress(done, len(source))
    decoding.close()
    columns_hash = decoding.encode(work / COLUMNS_FILE)
    shutil.rmtree(spill)
    info = replace(
        decoding.info(source.files(), columns_hash),
        not_recorded=source.not_recorded(), beside_sample=survey.beside_sample,
        together=source.together,
    )  # fmt: skip
    files = {name: sha256_of_file(work / name) for name in (COLUMNS_FILE, VERBATIM_FILE)}
    (work / MANIFEST_FILE).write_bytes(
        manifest_bytes(
            info,
            files,
            seed=seed,
            examples=counts.examples,
            context_left_out=survey.context_left_out,
        )
    )


@dataclass(frozen=True, slots=True)
class _Survey:
    repeated: Ints
    """Hashes of request ids that occur more than once."""
    context: tuple[str, ...]
    """Context columns to seal, sorted."""
    context_left_out: tuple[str, ...]
    """Context columns beyond the limit."""
    beside_sample: int
    """Exchanges that are there only because they failed."""


def _survey(source: ExchangeSource) -> _Survey:
    keys: list[Ints] = []
    columns: Counter[str] = Counter()
    beside_sample = 0
    for batch in source.batches(["request_id", "metadata", "context"]):
        beside_sample += _having(batch.column("metadata"), BESIDE_SAMPLE)
        keys.append(hashes(batch.column("request_id").to_pylist()))
        for column, values in context_columns(batch.column("context")).items():
            columns[column] += int(np.count_nonzero(values != ""))
    unique, times = np.unique(
        np.concatenate(keys) if keys else np.empty(0, np.int64), return_counts=True
    )
    ranked = sorted(columns, key=lambda c: (-columns[c], c))
    return _Survey(
        unique[times > 1],
        tuple(sorted(ranked[:_MOST_CONTEXT_COLUMNS])),
        tuple(sorted(ranked[_MOST_CONTEXT_COLUMNS:])[:_NAMES_KEPT]),
        beside_sample,
    )


def _having(maps: pa.Array, key: str) -> int:
    """Rows whose map has the key."""
    offsets = maps.offsets
    keys = maps.keys[offsets[0].as_py() : offsets[len(maps)].as_py()]
    return pc.sum(pc.equal(keys, key)).as_py() or 0


def _numbered(source: ExchangeSource, survey: _Survey, counts: Tally) -> Iterator[pa.RecordBatch]:
    """The source with seq; without rows that have no id or one that an earlier row has."""
    seen: set[str] = set()
    at = 0
    for batch in source.batches():
        ids = batch.column("request_id").to_pylist()
        keep = np.ones(len(batch), np.bool_)
        for k in np.flatnonzero(np.isin(hashes(ids), survey.repeated)).tolist():
            keep[k] = ids[k] not in seen
            seen.add(ids[k])
        for k in [k for k, i in enumerate(ids) if not i]:
            keep[k] = False
        for k in np.flatnonzero(~keep).tolist():
            reason = "duplicate request id" if ids[k] else "no request id"
            counts.count(counts.not_sealed, reason, ids[k])
        numbers = pa.array(np.arange(at, at + len(batch)))
        at += len(batch)
        numbered = pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=SEQ_SCHEMA)
        yield numbered if keep.all() else numbered.filter(pa.array(keep))


def _chunks(table: pa.Table) -> Iterator[pa.RecordBatch]:
    if len(table) == 0:
        return
    rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES * len(table) // max(1, table.nbytes)))
    yield from table.combine_chunks().to_batches(max_chunksize=rows)
