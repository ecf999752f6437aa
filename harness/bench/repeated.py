"""A sealed window of any length: the recorded requests again and again, each with an id of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.traffic import RequestBatch
from harness.store.blocks import CONTEXT, INPUT, RECORDED, BlockWriter
from harness.store.exchanges import SCHEMA
from harness.store.files import COLUMNS_FILE, sha256_of_file
from harness.store.sealed import VERBATIM_FILE, SealedWindow
from harness.store.window_manifest import MANIFEST_FILE, manifest_bytes

_SEED = 11


def write_repeated(window: SealedWindow, n: int, folder: Path) -> Path:
    """Writes a window of n requests; it has no verbatim bytes, which a gate does not read.

    Args:
      window: whose requests are repeated; each carries one row.
      n: requests.
      folder: to be made.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    info, requests = window.info, window.read(np.arange(window.info.count))
    specs = {INPUT + s.name: s for s in info.inputs} | {RECORDED + s.name: s for s in info.recorded}
    columns = _columns(requests)
    texts = [name for name, column in columns.items() if pa.types.is_string(column.type)]
    writer = BlockWriter(
        folder / COLUMNS_FILE,
        tensors=specs,
        context=[CONTEXT + name for name in info.context],
        words={name: columns[name].unique().sort() for name in texts},
        flat=True,
    )
    for part in _parts(requests, columns, n):
        writer.add(part)
    digest = writer.close().hex()
    pq.write_table(SCHEMA.empty_table(), folder / VERBATIM_FILE)
    files = {name: sha256_of_file(folder / name) for name in (COLUMNS_FILE, VERBATIM_FILE)}
    whole = replace(info, count=n, window_hash=digest)
    (folder / MANIFEST_FILE).write_bytes(manifest_bytes(whole, files, seed=_SEED))
    return folder


def _columns(requests: RequestBatch) -> dict[str, Any]:
    """The recorded columns as Arrow arrays, under their stored names."""
    import pyarrow as pa

    tensors = (
        {INPUT + name: t for name, t in requests.inputs.items()}
        | {RECORDED + name: t for name, t in requests.recorded.items()}
        | {CONTEXT + name: c for name, c in requests.context.items()}
    )
    return {name: pa.array(t) for name, t in tensors.items()}


def _parts(requests: RequestBatch, columns: dict[str, Any], n: int) -> Iterator[dict[str, Any]]:
    """All requests, each repetition in an order of its own."""
    import pyarrow as pa

    rng = np.random.default_rng(_SEED)
    size = len(requests)
    for number, start in enumerate(range(0, n, size)):
        order = rng.permutation(size)[: min(size, n - start)]
        taken = pa.array(order)
        yield {name: column.take(taken) for name, column in columns.items()} | {
            "seq": pa.array(start + order),
            "request_id": pa.array([f"{i}-{number}" for i in requests.request_id[order].tolist()]),
            "ts_ns": pa.array(requests.ts_ns[order] + number),
            "rows": pa.array(requests.rows[order]),
            "answered": pa.array(requests.answered[order]),
        }
