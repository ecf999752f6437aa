"""Plays flights against a served model, and writes what the proxy before it recorded.

Small files matter here, they are in git: large pages and zstd's highest level find the repetition
between requests, and columns in which every value is another carry no dictionary. Bytes stay
verbatim.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.tensors import Tensors
from harness.core.traffic import Exchange
from harness.store import labels as store_labels
from harness.store.exchanges import SCHEMA, batch_from_exchanges
from harness.wire import MODEL_INFER
from harness.wire.messages import request_bytes
from models.flights.data import columns

MODEL = "flights"
SERVED_VERSION = "1"
SEED = 20130701
SECOND_NS = 1_000_000_000
LABEL_LAG_S = 60 * 86400 + 14 * 3600
"""Labels are published about two months later. The 14 h put the boundary between August and
September, a night without arrivals, at 2013-11-01T00:00Z."""
ETL_SHAPE, ETL_MEAN_S = 2.0, 360.0
"""On top of it, the hours of a load job: gamma distributed."""
ROW_GROUP = 32_768
_PROGRESS = 5_000
_PAGE_BYTES = 64 << 20
_DISTINCT = {"ts_ns": "DELTA_BINARY_PACKED", "request_id": "DELTA_BYTE_ARRAY"}
_REPEATED = ["code", "method", "model", "version", "trace_id"]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of the year that becomes one traffic file and one label file."""

    name: str
    """As in the folder name: 2013-07..08."""
    months: tuple[int, ...]
    """Local months of scheduled departure."""
    share: float
    """Part of the flights that is drawn."""


HALVES = (
    Span(name="2013-07..08", months=(7, 8), share=0.5),
    Span(name="2013-09..10", months=(9, 10), share=0.5),
)
FULL_YEAR = (Span(name="2013-01..12", months=tuple(range(1, 13)), share=1.0),)


def chosen(flights: pd.DataFrame, span: Span) -> pd.DataFrame:
    """The span's flights, or a seeded random part of them, in the order of their requests."""
    rows = np.flatnonzero(flights["month"].isin(span.months))
    if span.share < 1:
        rng = np.random.default_rng([SEED, *span.months])
        rows = np.sort(rng.choice(rows, int(len(rows) * span.share), replace=False))
    return flights.iloc[rows]


def play(flights: pd.DataFrame, address: str) -> None:
    """Asks about every flight, one at a time; failures are the recorder's to note.

    Args:
      flights: rows of `models.flights.data.requests()`.
      address: host:port of the server, or of the proxy before it.
    """
    inputs = columns(flights)
    ids = flights["request_id"].tolist()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(MODEL_INFER)
        for i, request_id in enumerate(ids):
            one: Tensors = {name: column[i : i + 1] for name, column in inputs.items()}
            with contextlib.suppress(grpc.RpcError):
                call(request_bytes(MODEL, one, request_id))
            if (i + 1) % _PROGRESS == 0 or i + 1 == len(ids):
                print(f"{i + 1:>7} of {len(ids)} requests", file=sys.stderr)


def as_of_the_flights(recorded: Iterable[Exchange], flights: pd.DataFrame) -> Iterator[Exchange]:
    """What was recorded, at the times when the flights were asked about: all of it, in one pass.

    Args:
      recorded: in the order in which it was played.
      flights: what was played.

    Raises:
      ValueError: the recording lacks a flight, or has something else.
    """
    asked = zip(flights["request_id"].tolist(), flights["ts_s"].tolist(), strict=True)
    for exchange, (request_id, ts_s) in zip(recorded, asked, strict=True):
        if exchange.request_id != request_id:
            msg = f"recorded {exchange.request_id} where {request_id} was asked"
            raise ValueError(msg)
        yield replace(exchange, ts_ns=ts_s * SECOND_NS)


def write_traffic(path: Path, recorded: Iterator[Exchange]) -> None:
    """Writes exchanges as one Parquet file, a row group at a time."""
    with _writer(path, SCHEMA, _DISTINCT, _REPEATED) as writer:
        group: list[Exchange] = []
        for exchange in recorded:
            group.append(exchange)
            if len(group) == ROW_GROUP:
                writer.write_batch(batch_from_exchanges(group))
                group = []
        if group:
            writer.write_batch(batch_from_exchanges(group))


def ingestion_s(flights: pd.DataFrame) -> Ints:
    """When each label arrives, epoch seconds, shape (n,); rows without a label carry no meaning.

    Args:
      flights: all of `models.flights.data.requests()`: each flight has its own delay, whatever
        part of them is drawn.
    """
    rng = np.random.default_rng([SEED, 1])
    load = rng.gamma(ETL_SHAPE, ETL_MEAN_S / ETL_SHAPE, len(flights)).astype(np.int64)
    return flights["label_event_s"].to_numpy() + LABEL_LAG_S + load


def write_labels(path: Path, flights: pd.DataFrame) -> int:
    """Writes the labels of some flights as one Parquet file.

    Args:
      path: the file.
      flights: rows with the column ingestion_s.

    Returns:
      How many there are: cancelled and diverted flights have none.
    """
    labelled = flights[flights["label"].notna()]
    table = pa.table(
        {
            "request_id": pa.array(labelled["request_id"].tolist(), pa.string()),
            "label": labelled["label"].to_numpy(),
            "event_ts_ns": labelled["ts_s"].to_numpy() * SECOND_NS,
            "label_event_ts_ns": labelled["label_event_s"].to_numpy() * SECOND_NS,
            "ingestion_ts_ns": labelled["ingestion_s"].to_numpy() * SECOND_NS,
        },
        schema=store_labels.SCHEMA,
    )
    with _writer(path, table.schema, {"request_id": "DELTA_BYTE_ARRAY"}, ["label"]) as writer:
        writer.write_table(table)
    return len(table)


def _writer(path: Path, schema: Any, encodings: dict[str, str], dictionaries: list[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
    path.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=22,
        data_page_size=_PAGE_BYTES,
        dictionary_pagesize_limit=1 << 20,
        use_dictionary=dictionaries,
        column_encoding=encodings,
        write_statistics=["ts_ns"] if "ts_ns" in schema.names else False,
        write_page_checksum=True,
    )
