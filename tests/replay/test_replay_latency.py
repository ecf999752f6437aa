"""Latency request by request: both versions on one core, fair order, cold calls kept out."""

import os

import legs_models as models
import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.core.observations import Outcome
from harness.replay import latency
from harness.replay.latency import COLD_CALLS, LatencyLog, measure_latency
from harness.replay.unanswered import Ledger
from harness.sandbox.process import Sandbox


def slow_division(path, turns: int):
    """y = x / d after so many turns of a loop."""
    body = helper.make_graph(
        [helper.make_node("Identity", [a], [b]) for a, b in (("c", "c2"), ("v", "v2"))],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.INT64, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.INT64, None),
        ],
    )
    nodes = [
        helper.make_node("Div", ["x", "d"], ["q"]),
        helper.make_node("Loop", ["turns", "", "q"], ["y"], body=body),
    ]
    inputs = [models.integers("x"), models.integers("d")]
    constants = {"turns": np.array(turns)}
    return models.saved(path, nodes, inputs, [models.integers("y")], constants)


def batches(*sizes, bad=None):
    first = 0
    for size in sizes:
        yield np.arange(first, first + size) * 10, models.batch_with(size, bad or {}, first=first)
        first += size


def measured(baseline, candidate, *sizes, bad=None, seed=7, ledger=None):
    log = LatencyLog()
    openers = [models.Opener(path) for path in (baseline, candidate)]
    samples = list(
        measure_latency(*openers, batches(*sizes, bad=bad), seed=seed, log=log, ledger=ledger)
    )
    return samples, log, openers


def test_a_slower_version_is_slower_on_nearly_every_request(tmp_path):
    fast, slow = models.division(tmp_path / "a.onnx"), slow_division(tmp_path / "b.onnx", 3000)
    samples, log, _ = measured(fast, slow, 40, 20)
    assert [len(s) for s in samples] == [40, 20]
    assert samples[1].positions.tolist() == [10 * i for i in range(40, 60)]
    ratio = np.concatenate([s.candidate_s / s.baseline_s for s in samples])
    assert np.median(ratio) > 1.5
    assert (log.pairs, log.cold, log.restarts, log.ended) == (60, 2 * COLD_CALLS, 0, "")


def test_the_order_within_a_pair_is_a_fair_coin_of_the_runs_seed(tmp_path, monkeypatch):
    order = []
    real = Sandbox.submit

    def submit(self, *arguments, **options):
        order.append(self.pid)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Sandbox, "submit", submit)
    monkeypatch.setattr(latency, "COLD_CALLS", 0)
    model = models.division(tmp_path / "a.onnx")
    firsts = []
    for seed in (1, 1, 2):
        order.clear()
        _, _, openers = measured(model, model, 200, seed=seed)
        baseline = openers[0].first_pid
        firsts.append([pid == baseline for pid in order[::2]])
        assert all(a != b for a, b in zip(order[::2], order[1::2], strict=True))
    assert firsts[0] == firsts[1] != firsts[2]
    assert 60 < sum(firsts[0]) < 140


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no such call here")
def test_both_versions_are_held_on_one_core(tmp_path):
    seen = []
    opener = models.Opener(models.division(tmp_path / "a.onnx"))

    def opened():
        sandbox = opener()
        seen.append(sandbox.pid)
        return sandbox

    log = LatencyLog()
    for _ in measure_latency(opened, opened, batches(3), seed=1, log=log):
        cores = [os.sched_getaffinity(pid) for pid in seen]
    assert cores == [{log.core}] * 2
    assert "on core" in log.words()


def test_a_request_that_one_version_fails_is_nan_on_its_side(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "COLD_CALLS", 2)
    good = models.saved(
        tmp_path / "good.onnx", [helper.make_node("Add", ["x", "d"], ["y"])],
        [models.integers("x"), models.integers("d")], [models.integers("y")],
    )  # fmt: skip
    bad = {3: models.CRASH, 6: models.ERROR}
    ledger = Ledger()
    new = models.division(tmp_path / "b.onnx")
    (sample,), log, _ = measured(good, new, 10, bad=bad, ledger=ledger)
    assert {(e.seq, e.kind, e.by) for e in ledger.entries} == {
        ((3,), Outcome.CRASH, "latency sample"),
        ((6,), Outcome.ERROR, "latency sample"),
    }
    assert np.flatnonzero(np.isnan(sample.candidate_s)).tolist() == [3, 6]
    assert not np.isnan(sample.baseline_s).any()
    assert (log.restarts, log.cold) == (1, 6)


def test_a_version_that_dies_again_and_again_ends_the_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "COLD_CALLS", 0)
    model = models.division(tmp_path / "a.onnx")
    bad = dict.fromkeys(range(20), models.CRASH)
    samples, log, openers = measured(model, model, 20, 20, bad=bad)
    assert "restarted 5 times" in log.ended
    assert sum(len(s) for s in samples) == 6
    assert openers[0].started == 6
