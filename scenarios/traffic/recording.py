"""Plays flights against a served model and writes what went over the wire as recorded traffic.

Small files matter here, they are in git: large pages and zstd's highest level find the repetition
between requests, and columns in which every value is another carry no dictionary. Bytes stay
verbatim.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.tensors import Tensors
from harness.core.traffic import OK_CODE, Exchange
from harness.store import labels as store_labels
from harness.store.exchanges import SCHEMA, batch_from_exchanges
from harness.wire.messages import request_bytes
from models.flights.data import columns
from scenarios.traffic.serving import METHOD

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


def exchanges(flights: pd.DataFrame, call: grpc.UnaryUnaryMultiCallable) -> Iterator[Exchange]:
    """Asks about every flight, one at a time, and yields what went over the wire.

    Args:
      flights: rows of `models.flights.data.requests()`.
      call: takes and returns bytes.
    """
    inputs = columns(flights)
    context = [inputs["carrier"].tolist(), inputs["origin"].tolist()]
    ids, ts_s = flights["request_id"].tolist(), flights["ts_s"].tolist()
    for i, request_id in enumerate(ids):
        one: Tensors = {name: column[i : i + 1] for name, column in inputs.items()}
        request = request_bytes(MODEL, one, request_id)
        start = time.perf_counter_ns()
        try:
            response, code = call(request), OK_CODE
        except grpc.RpcError as error:
            response, code = b"", int(error.code().value[0])
        yield Exchange(
            ts_ns=ts_s[i] * SECOND_NS,
            latency_ns=time.perf_counter_ns() - start,
            code=code,
            method=METHOD,
            model=MODEL,
            version=SERVED_VERSION,
            request_id=request_id,
            request=request,
            response=response,
            context={"carrier": context[0][i], "origin": context[1][i]},
        )
        if (i + 1) % _PROGRESS == 0 or i + 1 == len(ids):
            print(f"{i + 1:>7} of {len(ids)} requests", file=sys.stderr)


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
