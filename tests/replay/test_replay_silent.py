"""A version that answers nothing is not asked for long: each trial more would cost a deadline."""

import legs_models as models
import numpy as np
import pytest
from test_replay_recovery import HANG, Starving, collected, looping

from harness.core.observations import Outcome
from harness.replay.composition import rows_of
from harness.replay.legs import Leg
from harness.sandbox import deadlines


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """However busy the machine is, a child that spins gets its time."""
    monkeypatch.setattr(deadlines, "PATIENCE", 100.0)


def trials(leg, batch):
    """As a gate begins: a single request, larger ones, parts, and each by itself."""
    leg.tried(rows_of(batch, 0, 1))
    for start, stop in ((0, 64), (1, 64), (10, 40), (30, 64)):
        leg.tried(rows_of(batch, start, stop))
    singles = (rows_of(batch, i, i + 1) for i in range(20, 40))
    return list(leg.tried_each(singles))


def test_trials_of_a_version_that_never_answers_stop_and_the_replay_ends_its_leg(tmp_path):
    batch = models.batch_with(64, dict.fromkeys(range(64), HANG))
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        assert trials(leg, batch) == [None] * 20
        assert leg.silent
        tried = leg.counters().restarts
        (found,) = collected(leg, batch)
        assert leg.ended == "3 requests in a row got no answer, each by itself"
        assert (tried, leg.counters().restarts) == (3, 6)
        assert leg.counters().flaky == 0
    assert (found.outcome == Outcome.TIMEOUT).sum() == 3
    assert (found.outcome == Outcome.NOT_RUN).sum() == 61


def test_that_the_first_request_hangs_says_nothing_of_the_others(tmp_path):
    batch = models.batch_with(64, {0: HANG, 20: HANG})
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        singles = trials(leg, batch)
        assert not leg.silent
        assert [one is None for one in singles] == [True] + [False] * 19
        (found,) = collected(leg, batch)
        assert leg.ended == ""
    assert np.flatnonzero(found.outcome).tolist() == [0, 20]


def test_requests_that_are_known_to_hang_end_no_leg_that_answers(tmp_path):
    batch = models.batch_with(64, dict.fromkeys(range(1, 6), HANG))
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        for index in range(6):
            leg.tried(rows_of(batch, index, index + 1))
        (found,) = collected(leg, batch)
        assert leg.ended == ""
    assert np.flatnonzero(found.outcome).tolist() == [1, 2, 3, 4, 5]


def test_requests_that_another_leg_knows_to_hang_end_none_that_answers(tmp_path):
    hang = [0, 10, 20, 63]
    batch = models.batch_with(64, dict.fromkeys(hang, HANG))
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        for index in hang:
            leg.tried(rows_of(batch, index, index + 1))
        known = leg.blamed.kept()
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        leg.blamed.recall(known)
        (found,) = collected(leg, batch)
        assert leg.ended == ""
    assert np.flatnonzero(found.outcome).tolist() == hang


def test_a_version_that_got_no_processor_at_first_is_asked_on(tmp_path):
    opener = Starving(models.Opener(models.division(tmp_path / "m.onnx")), 2)
    with Leg(opener, name="candidate") as leg:
        assert trials(leg, models.batch_with(64, {}))[0] is not None
        assert not leg.silent
        assert (leg.counters().flaky, leg.ledger.entries) == (0, [])
