"""The recorder's benchmark sees what is lost and what is altered."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from harness.bench import h2load
from harness.bench.record import _unaccounted
from harness.core.errors import GateError
from harness.core.traffic import Exchange
from harness.store.traffic import TrafficWriter
from harness.wire import MODEL_INFER

ROW = Exchange(
    ts_ns=1, latency_ns=1, code=0, method=MODEL_INFER, model="m", version="", request_id="r",
    request=b"sent", response=b"sent",
)  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "totals", "wrong"),
    [
        ([ROW] * 10, {}, 0),
        ([ROW] * 8, {"not_recorded": [["full", 2]]}, 0),
        ([ROW] * 9, {}, 1),
        ([*[ROW] * 9, replace(ROW, response=b"other")], {}, 1),
        ([*[ROW] * 9, replace(ROW, request=b"other")], {}, 1),
        ([*[ROW] * 10, replace(ROW, code=1, response=b"")], {"seen": 11, "failed": 1}, 0),
        ([*[ROW] * 9, replace(ROW, code=1, response=b"")], {"failed": 1}, 1),
        ([ROW] * 11, {}, 1),
    ],
)
def test_what_is_neither_recorded_nor_counted_is_seen(tmp_path, rows, totals, wrong):
    with TrafficWriter(tmp_path) as writer:
        writer.write(rows)
    seen = h2load.Load(done=10, rate=1.0, latency_s=np.ones(10))
    said = {"seen": 10, "failed": 0, "not_recorded": [], **totals}
    assert _unaccounted(seen, said, tmp_path, b"sent") == wrong


def test_without_the_load_generator_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(GateError, match="nghttp2-client"):
        h2load.check_installed()


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
@pytest.mark.long
def test_the_benchmark_runs():
    from harness.bench.record import bench_record

    found = {f.name: f for f in bench_record().figures}
    assert found["requests at that rate lost, altered or not accounted for"].kept
    assert found["memory the proxy gains with a stalled disk"].kept


def test_every_section_can_be_measured_alone():
    from harness.bench.record import SECTIONS
    from harness.cli.bench import record

    (only,) = [p for p in record.params if p.name == "only"]
    assert tuple(only.type.choices) == SECTIONS
