"""Made-up streams for the diff tests: requests, observations, flight-like features."""

import itertools
from collections.abc import Iterator

import numpy as np

from harness.core.models import ModelGraph
from harness.core.observations import Observations, PairBatch
from harness.core.tensors import Signature
from harness.core.traffic import RequestBatch
from harness.diff.floor import Floor
from harness.diff.floor_builder import FloorBuilder

CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "MQ", "UA")
RAW = ("hour", "hour_sin", "hour_cos", "weekday", "distance", "temp", "carrier_code", "carrier")
FITTED = ("temp_imputed",)
OWN_FILL = 54.25


def requests(n, *, start=0, rows=None, recorded=None, answered=None):
    return RequestBatch(
        seq=np.arange(start, start + n),
        request_id=np.array([f"r{i}" for i in range(start, start + n)], dtype=object),
        ts_ns=np.zeros(n, dtype=np.int64),
        rows=np.ones(n, dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64),
        inputs={},
        recorded=recorded or {},
        answered=np.ones(n, dtype=np.bool_) if answered is None else np.asarray(answered),
        context={},
    )


def observed(n, *, outputs=None, features=None, outcome=None, keys=None, traced=None):
    return Observations(
        outcome=np.zeros(n, dtype=np.int8) if outcome is None else np.asarray(outcome, np.int8),
        outputs=outputs or {},
        features=features or {},
        trace_outputs=traced or {},
        latency_s=np.zeros(n),
        keys=keys or {},
    )


def graph(features=RAW, fitted=FITTED, vocabularies=(("carrier_code", CARRIERS),)):
    return ModelGraph(
        signature=Signature(inputs=(), outputs=()),
        features=tuple(features),
        fitted=tuple(fitted),
        tensors=(*features, *fitted),
        vocabularies=tuple(vocabularies),
    )


def flight_features(n, rng):
    """What a flight model computes from raw fields, and one imputed tensor."""
    hour = (rng.integers(5 * 60, 24 * 60, n) / 60).astype(np.float32)
    temp = rng.normal(60, 18, n).astype(np.float32)
    temp[rng.random(n) < 0.08] = np.nan
    code = rng.choice(len(CARRIERS), n, p=np.arange(1, 9) / 36)
    return {
        "hour": hour,
        "hour_sin": circle(hour, np.sin),
        "hour_cos": circle(hour, np.cos),
        "weekday": rng.integers(0, 7, n),
        "distance": rng.integers(80, 2500, n).astype(np.float32),
        "temp": temp,
        "carrier_code": code,
        "carrier": np.array(CARRIERS, dtype=object)[code],
        "temp_imputed": np.where(np.isnan(temp), np.float32(OWN_FILL), temp),
    }


def circle(hour, function):
    return function(2 * np.pi * hour / 24).astype(np.float32)


def copied(features):
    return {name: values.copy() for name, values in features.items()}


def pieces(n, cuts) -> Iterator[slice]:
    """[0, n) cut at the given places."""
    edges = [0, *sorted({c for c in cuts if 0 < c < n}), n]
    for start, end in itertools.pairwise(edges):
        yield slice(start, end)


def feature_pairs(baseline, candidate, cuts=()):
    """The two sides' features as batches of single-row requests."""
    n = len(next(iter(baseline.values())))
    for part in pieces(n, cuts):
        size = part.stop - part.start
        yield PairBatch(
            requests=requests(size, start=part.start),
            baseline=observed(size, features={k: v[part] for k, v in baseline.items()}),
            candidate=observed(size, features={k: v[part] for k, v in candidate.items()}),
        )


def output_pairs(baseline, candidate, cuts=(), keys=(None, None)):
    n = len(next(iter(baseline.values())))
    for part in pieces(n, cuts):
        size = part.stop - part.start
        yield PairBatch(
            requests=requests(size, start=part.start),
            baseline=observed(
                size, outputs={k: v[part] for k, v in baseline.items()}, keys=keys[0]
            ),
            candidate=observed(
                size, outputs={k: v[part] for k, v in candidate.items()}, keys=keys[1]
            ),
        )


def floor_of(pairs) -> Floor:
    builder = FloorBuilder()
    for pair in pairs:
        builder.update(pair)
    return builder.finish()
