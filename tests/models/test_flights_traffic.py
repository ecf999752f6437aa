"""The committed traffic: real messages, answered as v1 answers, labels that come late."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from harness.core.clock import ts_ns_from_iso
from harness.store.labels import read_labels
from harness.store.traffic import TrafficSource
from harness.wire.messages import tensors_from_request, tensors_from_response

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "scenarios" / "traffic" / "flights"
AS_OF_NS = ts_ns_from_iso("2013-11-01T00:00:00Z", "test")
SPANS = {"2013-07..08": (29_376, 28_523), "2013-09..10": (28_231, 27_800)}


@pytest.fixture(scope="module")
def recorded():
    return {
        span: pq.read_table(
            FOLDER / "model=flights" / f"span={span}" / "part-0.parquet", partitioning=None
        )
        for span in SPANS
    }


@pytest.fixture(scope="module")
def asked(recorded, flights):
    """The flights that each recorded request is about, in the recorded order."""
    by_id = flights.set_index("request_id", drop=False)
    return {span: by_id.loc[table["request_id"].to_pylist()] for span, table in recorded.items()}


def test_the_whole_folder_fits_into_git():
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 5_000_000


def test_provenance_lists_the_checksum_of_every_file():
    import hashlib

    text = (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")
    given = dict(re.findall(r"^\| (\S+\.parquet) \|.*`([0-9a-f]{64})` \|$", text, re.MULTILINE))
    files = {p.relative_to(FOLDER).as_posix(): p for p in FOLDER.rglob("*.parquet")}
    assert given == {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()}


def test_the_store_reads_the_folder_as_traffic_with_labels():
    source = TrafficSource.open([FOLDER])
    assert len(source) == sum(n for n, _ in SPANS.values())
    assert [p.stem for p in source.labels] == sorted(SPANS)


@pytest.mark.parametrize("span", SPANS)
class TestExchanges:
    def test_half_of_the_flights_in_time_order(self, span, recorded):
        table = recorded[span]
        times = table["ts_ns"].to_numpy()
        assert len(table) == SPANS[span][0]
        assert (np.diff(times) >= 0).all()
        assert pc.count_distinct(table["request_id"]).as_py() == len(table)

    def test_every_request_was_answered(self, span, recorded):
        table = recorded[span]
        assert set(table["code"].to_pylist()) == {0}
        assert table["latency_ns"].to_numpy().min() > 0

    def test_requests_hold_what_was_known_one_hour_before(self, span, recorded, asked):
        from models.flights import data

        requests = recorded[span]["request"].to_pylist()
        expected = data.columns(asked[span])
        for i in range(0, len(requests), 501):
            given = tensors_from_request(requests[i])
            assert list(given) == list(expected)
            for name, array in given.items():
                assert array.shape == (1,)
                assert array.dtype == expected[name].dtype
                np.testing.assert_array_equal(array, expected[name][i : i + 1])
        assert (recorded[span]["ts_ns"].to_numpy() == asked[span]["ts_s"].to_numpy() * 10**9).all()

    def test_responses_are_bit_for_bit_what_v1_answers(self, span, recorded, asked):
        from models.flights import data

        session = ort.InferenceSession(
            (ROOT / "models/flights/v1.onnx").read_bytes(), providers=["CPUExecutionProvider"]
        )
        expected = session.run(["probability", "label"], data.columns(asked[span]))
        responses = [tensors_from_response(r) for r in recorded[span]["response"].to_pylist()]
        for name, array in zip(("probability", "label"), expected, strict=True):
            given = np.concatenate([r[name] for r in responses])
            assert given.tobytes() == array.tobytes()

    def test_context_is_carrier_and_origin(self, span, recorded, asked):
        given = [dict(c) for c in recorded[span]["context"].to_pylist()]
        flights = asked[span][["carrier", "origin"]].to_dict("records")
        assert given == flights


@pytest.mark.parametrize("span", SPANS)
class TestLabels:
    def test_labels_are_the_arrivals(self, span, asked):
        table = pq.read_table(FOLDER / "labels" / f"{span}.parquet")
        flights = asked[span]
        flights = flights[flights["label"].notna()]
        assert table["request_id"].to_pylist() == flights["request_id"].tolist()
        assert table["label"].to_pylist() == flights["label"].tolist()
        event = flights["label_event_s"].to_numpy() * 10**9
        assert (table["label_event_ts_ns"].to_numpy() == event).all()
        lag_h = (table["ingestion_ts_ns"].to_numpy() - event) / 3.6e12
        assert lag_h.min() >= 60 * 24 + 14
        assert lag_h.mean() == pytest.approx(60 * 24 + 14.1, abs=0.01)

    def test_cancelled_flights_are_asked_about_and_never_labelled(self, span, asked):
        requests, labels = SPANS[span]
        assert asked[span]["label"].isna().sum() == requests - labels


def test_on_the_first_of_november_summer_is_labelled_and_autumn_is_not():
    known = read_labels([FOLDER / "labels"], AS_OF_NS)
    assert known.read == sum(n for _, n in SPANS.values())
    assert len(known) == SPANS["2013-07..08"][1]
    assert known.after_as_of == SPANS["2013-09..10"][1]


def test_recording_again_gives_the_same_bytes(tmp_path, recorded, asked):
    from scenarios.traffic import proxied, recording

    rows, raw = asked["2013-07..08"].iloc[:40], tmp_path / "raw"
    with proxied.recorded(
        ROOT / "models/flights/v1.onnx", "flights", "1", raw, "--context", "carrier,origin"
    ) as proxy:
        recording.play(rows, proxy.address)
    found = sorted(TrafficSource.open([raw]).exchanges(), key=lambda e: e.ts_ns)
    recording.write_traffic(tmp_path / "part-0.parquet", recording.as_of_the_flights(found, rows))
    table = pq.read_table(tmp_path / "part-0.parquet").drop(["latency_ns"])
    assert table.equals(recorded["2013-07..08"].slice(0, 40).drop(["latency_ns"]))


def test_the_server_refuses_what_is_no_request():
    import grpc

    from scenarios.traffic import serving

    server = serving.ModelServer(ROOT / "models/flights/v1.onnx", "flights", "1")
    with pytest.raises(serving.RefusalError) as refused:
        server.answer(b"\xff\xff")
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
