"""What was recorded replays as it was: the same version gives the recorded answers."""

import json
import sys
from itertools import islice

import grpc
import pytest
from gates import FLIGHTS, MODELS, REFACTOR, ROOT

from harness.store.traffic import TrafficSource
from harness.wire import MODEL_INFER


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """400 flights, asked of v1 through the proxy; the traffic, the totals, what was asked."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from scenarios.traffic import proxied

    asked = list(islice(TrafficSource.open([FLIGHTS]).exchanges(), 400))
    out = tmp_path / "traffic"
    with (
        proxied.recorded(
            MODELS / "v1.onnx", "flights", "1", out, "--context", "carrier,origin"
        ) as recorder,
        grpc.insecure_channel(recorder.address) as channel,
    ):
        call = channel.unary_unary(MODEL_INFER)
        for exchange in asked:
            assert call(exchange.request) == exchange.response
    yield out, recorder.totals, asked
    sys.modules.pop("scenarios.traffic.proxied", None)


def same_but_for_times(exchange):
    return (
        exchange.code, exchange.method, exchange.model, exchange.version, exchange.request_id,
        exchange.request, exchange.response, exchange.metadata, exchange.context,
    )  # fmt: skip


def test_recorded_traffic_replays_without_a_divergence(
    recorded, flights_registry, harness, write_policy, tmp_path
):
    traffic, totals, asked = recorded
    found = list(TrafficSource.open([traffic]).exchanges())
    assert list(map(same_but_for_times, found)) == list(map(same_but_for_times, asked))
    assert (totals["seen"], totals["written"], totals["not_recorded"]) == (400, 400, [])
    run = tmp_path / "run"
    ran = harness(
        "gate", "models:/flights/1", "models:/flights/1", "--registry", flights_registry,
        "-t", traffic, "-p", write_policy(REFACTOR), "-o", run, "-q",
    )  # fmt: skip
    assert ran.code == 0, ran.out + ran.err
    intermediates = json.loads((run / "intermediates.json").read_text())
    faithful = intermediates["faithful"]
    assert (faithful["compared"], faithful["mismatched"]) == (400, 0)
    compared = intermediates["compared"]
    assert compared["output_requests"] > 300
    assert (compared["output_mismatches"], compared["feature_mismatches"]) == (0, 0)
