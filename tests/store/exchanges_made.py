"""Exchanges for the store's tests: small requests with numbers, strings, rows and context."""

import numpy as np

from harness.core.traffic import Exchange
from harness.wire import MODEL_INFER
from harness.wire.messages import request_bytes, response_bytes


def inputs_of(i, rows=1):
    rng = np.random.default_rng(i)
    return {
        "distance": rng.normal(size=rows).astype(np.float32),
        "hour": rng.integers(0, 24, rows),
        "carrier": np.array([["AA", "UA", "B6"][k % 3] for k in range(i, i + rows)], object),
        "tail": np.array([f"N{i}-{k}" for k in range(rows)], object),
        "pair": rng.normal(size=(rows, 2)),
    }


def outputs_of(i, rows=1):
    return {"p": np.full((rows, 2), i / 1000, np.float32)}


def exchange(i, *, rows=1, **changes):
    fields = {
        "ts_ns": 1_000_000 * i,
        "latency_ns": 500 + i,
        "code": 0,
        "method": MODEL_INFER,
        "model": "flights",
        "version": str(1 + i % 2),
        "request_id": f"fl-{i:06d}",
        "request": request_bytes("flights", inputs_of(i, rows), f"fl-{i:06d}"),
        "response": response_bytes("flights", "1", outputs_of(i, rows), f"fl-{i:06d}"),
        "metadata": {"user": "u"},
        "context": {"origin": ["JFK", "EWR"][i % 2], "carrier": "AA"},
        "trace_id": f"t{i}",
    }
    return Exchange(**{**fields, **changes})
