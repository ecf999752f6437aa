"""A request that costs a process by itself costs it once: it is remembered, and in no batch again."""

import json
from dataclasses import replace

import legs_models as models
import numpy as np
import pytest
from onnx import helper
from test_replay_memory import TOO_MUCH, collected, leg_on, wide

from harness.core.observations import Cause, Outcome
from harness.replay import recovery
from harness.replay.blamed import Blamed, without_blamed
from harness.replay.composition import rows_of
from harness.replay.latency import LatencyLog, measure_latency
from harness.replay.leg_counters import LegCaps
from harness.replay.unanswered import Ledger
from harness.sandbox.answers import BatchFault

SHORT = BatchFault(
    seq=1, kind=Outcome.ERROR, message="no room", alive=True, cause=Cause.MEMORY_LIMIT
)


def test_a_request_that_needs_too_much_costs_few_processes(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        (found,) = collected(leg, models.batch_with(8, {5: (0, TOO_MUCH)}))
        counters = leg.counters()
    assert np.flatnonzero(found.outcome).tolist() == [5]
    # One that it is blamed in, and one for a sound request that failed as the process was full.
    assert counters.restarts <= 2
    assert (counters.refilled, counters.smaller) == (1, 0)


def test_it_is_asked_by_itself_once_more_and_costs_nothing(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        (first,) = collected(leg, models.batch_with(8, {5: (0, TOO_MUCH)}))
        restarts = leg.counters().restarts
        (second,) = collected(leg, models.batch_with(8, {5: (0, TOO_MUCH)}))
        counters = leg.counters()
    assert first.outcome.tolist() == second.outcome.tolist()
    good = np.delete(np.arange(8), 5)
    assert second.outputs["y"][good].tolist() == good.tolist()
    assert (counters.restarts, counters.poison_count) == (restarts, 1)
    assert (counters.retries, counters.flaky) == (0, 0)


def test_one_that_kills_its_process_kills_one_more(tmp_path):
    batch = models.batch_with(64, {9: models.CRASH})
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        leg.submit(batch, trace=False)
        leg.collect()
        before = leg.counters().restarts
        leg.submit(batch, trace=False)
        found = leg.collect()
        counters = leg.counters()
    assert np.flatnonzero(found.outcome).tolist() == [9]
    assert found.outputs["y"][:9].tolist() == [*range(9)]
    assert counters.restarts == before + 1


def test_what_it_costs_once_more_does_not_use_up_the_restarts(tmp_path):
    batch = models.batch_with(64, {9: models.CRASH, 40: models.CRASH})
    model = models.division(tmp_path / "m.onnx")
    with models.leg_on(model) as leg:
        collected(leg, batch)
        once = leg.counters().restarts
    with models.leg_on(model, caps=LegCaps(max_restarts=once)) as leg:
        found = [*collected(leg, batch), *collected(leg, batch), *collected(leg, batch)]
        assert leg.ended == ""
        assert leg.counters().restarts == once + 4
    assert [np.flatnonzero(o.outcome).tolist() for o in found] == [[9, 40]] * 3


def test_what_is_answered_after_all_is_flaky_and_no_failure(tmp_path):
    batch = models.batch_with(8, {})
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        leg.blamed.add(batch, 3, SHORT)
        (found,) = collected(leg, batch)
        counters = leg.counters()
        assert leg.blamed.faults == {}
    assert found.outcome.tolist() == [Outcome.OK] * 8
    assert (counters.flaky, counters.poison_count) == (1, 0)


def test_a_batch_of_nothing_else_is_asked_by_itself(tmp_path):
    batch = models.batch_with(3, dict.fromkeys(range(3), (0, TOO_MUCH)))
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        for index in range(3):
            leg.blamed.add(batch, index, SHORT)
        (found,) = collected(leg, batch)
        assert leg.counters().restarts == 0
    assert found.outcome.tolist() == [Outcome.ERROR] * 3


def test_another_one_in_the_same_batch_is_found(tmp_path):
    batch = models.batch_with(8, {2: (0, TOO_MUCH), 6: (0, TOO_MUCH)})
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        leg.blamed.add(batch, 2, SHORT)
        (found,) = collected(leg, batch)
        assert sorted(leg.blamed.faults) == [2, 6]
    assert np.flatnonzero(found.outcome).tolist() == [2, 6]
    good = np.delete(np.arange(8), [2, 6])
    assert found.outputs["y"][good].tolist() == good.tolist()


def test_a_trial_does_not_ask_it_and_says_so(tmp_path):
    batch = models.batch_with(4, {2: (0, TOO_MUCH)})
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        assert leg.tried(batch, by="one") is None
        restarts = leg.counters().restarts
        assert leg.tried(batch, by="another") is None
        assert leg.counters().restarts == restarts
        assert [(e.by, e.seq, e.cause) for e in leg.ledger.entries] == [
            ("one", (2,), Cause.MEMORY_LIMIT),
            ("another", (2,), Cause.MEMORY_LIMIT),
        ]
        others = without_blamed(batch, [leg.blamed])
        answer = leg.tried(others)
    assert others.seq.tolist() == [0, 1, 3]
    assert answer is not None
    assert answer.outputs["y"].tolist() == [0, 1, 3]


def test_sound_requests_that_a_full_process_fails_are_answered_and_not_remembered(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        full = models.batch_with(36, {})
        wider = models.batch_with(4, {3: (0, 30)}, first=36)
        before, after = collected(leg, full), collected(leg, wider)
        counters = leg.counters()
        assert leg.blamed.faults == {}
    assert [o.outcome.tolist() for o in (*before, *after)] == [[0] * 36, [0] * 4]
    assert (counters.poison_count, counters.flaky) == (0, 0)


@pytest.mark.parametrize(("alike", "ended"), [(True, ""), (False, "2 requests ended")])
def test_what_the_other_version_fails_too_is_no_sign_of_this_one(tmp_path, alike, ended):
    bad = dict.fromkeys((1, 3, 5), (0, TOO_MUCH))
    batch, other = models.batch_with(8, bad), Blamed()
    for index in bad:
        other.add(batch, index, SHORT)
    with leg_on(wide(tmp_path / "m.onnx"), caps=LegCaps(max_quarantined=2)) as leg:
        leg.other = other if alike else None
        collected(leg, batch)
        assert leg.ended[:16] == ended


def test_a_version_that_fails_everything_as_the_other_does_ends_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "USUAL", LegCaps(max_quarantined=4))
    bad = dict.fromkeys(range(8), models.CRASH)
    batch, other = models.batch_with(8, bad), Blamed()
    for index in bad:
        other.add(batch, index, replace(SHORT, alive=False))
    caps = LegCaps(max_quarantined=2)
    with models.leg_on(models.division(tmp_path / "m.onnx"), caps=caps) as leg:
        leg.other = other
        leg.submit(batch, trace=False)
        leg.collect()
        assert leg.ended == "4 requests ended its process, each by itself"


def test_two_legs_of_one_version_remember_together(tmp_path):
    path, batch = wide(tmp_path / "m.onnx"), models.batch_with(8, {5: (0, TOO_MUCH)})
    with leg_on(path) as first, leg_on(path) as second:
        second.same_as(first)
        second.submit(batch, trace=False)
        collected(first, batch)
        found = second.collect()
        assert second.counters().restarts == 0
    assert np.flatnonzero(found.outcome).tolist() == [5]


@pytest.fixture
def traced(tmp_path):
    """A version whose trace alone divides: y = -x."""
    inputs = [models.integers("x"), models.integers("d")]
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    plain = models.saved(tmp_path / "m.onnx", nodes, inputs, [models.integers("y")])
    nodes += [helper.make_node("Div", ["x", "d"], ["t"])]
    outputs = [models.integers("y"), models.integers("t")]
    probed = models.saved(tmp_path / "probed.onnx", nodes, inputs, outputs)
    with models.leg_on(plain, trace_model=probed, trace_tensors=("t",)) as leg:
        yield leg


def test_what_only_the_trace_of_a_trial_fails_is_not_remembered(traced):
    one = models.batch_with(1, {0: models.CRASH})
    assert traced.tried(one, trace=True, by="one") is None
    assert (traced.blamed.faults, len(traced.ledger.entries)) == ({}, 1)
    (found,) = collected(traced, models.batch_with(4, {0: models.CRASH}), trace=True)
    counters = traced.counters()
    assert found.outcome.tolist() == [Outcome.OK] * 4
    assert (counters.trace_faults, counters.poison_count, counters.flaky) == (1, 0, 0)


def test_what_fails_a_trial_without_its_trace_is_remembered(tmp_path):
    model = models.division(tmp_path / "m.onnx")
    options = {"trace_model": model, "trace_tensors": ("y",)}
    with models.leg_on(model, **options) as leg:
        assert leg.tried(models.batch_with(1, {0: models.CRASH}), trace=True) is None
        assert [f.kind for f in leg.blamed.faults.values()] == [Outcome.CRASH]


def test_what_is_known_to_fail_is_asked_without_its_trace(traced):
    batch = models.batch_with(4, {2: models.CRASH})
    traced.blamed.add(batch, 2, SHORT)
    (found,) = collected(traced, batch, trace=True)
    assert found.outcome.tolist() == [Outcome.OK] * 4
    assert traced.blamed.faults == {}


def test_an_error_that_costs_no_process_is_not_remembered(tmp_path):
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        leg.submit(models.batch_with(8, {5: models.ERROR}), trace=False)
        leg.collect()
        assert leg.blamed.faults == {}


def test_latency_is_not_asked_of_it(tmp_path):
    path, batch = wide(tmp_path / "m.onnx"), models.batch_with(6, {4: (0, TOO_MUCH)})
    opener, ledger, log = (lambda: leg_on(path).first), Ledger(), LatencyLog()
    blamed = Blamed(), Blamed()
    blamed[1].add(batch, 4, SHORT)
    (sample,) = measure_latency(
        opener, opener, [(batch.seq, rows_of(batch, 0, 6))], seed=3, log=log, ledger=ledger,
        blamed=blamed,
    )  # fmt: skip
    assert np.flatnonzero(np.isnan(sample.candidate_s)).tolist() == [4]
    assert ledger.entries == []


def test_what_is_kept_is_read_again():
    batch, blamed, again = models.batch_with(8, {}, first=70), Blamed(), Blamed()
    blamed.add(batch, 3, SHORT)
    blamed.add(batch, 5, BatchFault(seq=9, kind=Outcome.CRASH, message="died", alive=False))
    again.recall(json.loads(json.dumps(blamed.kept())))
    assert sorted(again.faults) == [73, 75]
    assert [replace(f, seq=0) for f in again.faults.values()] == [
        replace(f, seq=0) for f in blamed.faults.values()
    ]
