"""Batch boundaries, order and resuming must not change what a diff says."""

import io

import numpy as np
import pytest
from diff_streams import (
    copied,
    feature_pairs,
    flight_features,
    floor_of,
    graph,
    observed,
    output_pairs,
    pieces,
    requests,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.jsonable import canonical
from harness.diff import sample
from harness.diff.faithful import FaithfulDiff
from harness.diff.features import FeatureDiff
from harness.diff.observer import ObserverDiff
from harness.diff.outputs import OutputDiff
from harness.diff.signature import SignatureMatch

N = 900
RNG = np.random.default_rng(77)
FLIGHTS = flight_features(N, RNG)
FAULTY = copied(FLIGHTS)
FAULTY["hour"] = ((FLIGHTS["hour"] + 4) % 24).astype(np.float32)
FAULTY["temp_imputed"] = np.nan_to_num(FLIGHTS["temp"])
FAULTY["carrier"] = np.where(FLIGHTS["carrier"] == "UA", "U\0A", FLIGHTS["carrier"])
FLOOR = floor_of(feature_pairs(FLIGHTS, FLIGHTS))
SCORES = RNG.random((N, 2))
KEYS = {"s": ("late", "early")}
cuts = st.lists(st.integers(1, N - 1), max_size=6)


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    """So that the end of the sampled beginning lies within the stream."""
    monkeypatch.setattr(sample, "LIMIT", 200)
    monkeypatch.setattr("harness.diff.row_order.LIMIT", 200)


def saved(state):
    """Through a file, as the run folder keeps it: no pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, **{k.replace("/", "|"): v for k, v in state.items()})
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        return {k.replace("|", "/"): arrays[k] for k in arrays.files}


def features(cuts_at, stop=None):
    diff = FeatureDiff(FLOOR, graph(), graph(), ("weekday",))
    mismatch = []
    for i, pair in enumerate(feature_pairs(FLIGHTS, FAULTY, cuts_at)):
        if i == stop:
            state = saved(diff.state())
            diff = FeatureDiff.from_state(state, FLOOR, graph(), graph(), ("weekday",))
        mismatch.append(diff.update(pair).mismatch)
    return np.concatenate(mismatch), diff.finish()


@settings(max_examples=25, deadline=None)
@given(cuts, st.integers(0, 6))
def test_feature_report_is_the_same_in_any_batches_and_after_a_resume(cuts_at, stop):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "LIMIT", 200)
        whole, report = features(())
        mismatch, again = features(cuts_at, stop)
    np.testing.assert_array_equal(mismatch, whole)
    assert again == report


@settings(max_examples=25, deadline=None)
@given(cuts, st.integers(0, 6))
def test_output_report_is_the_same_in_any_batches_and_after_a_resume(cuts_at, stop):
    before, after = {"s": SCORES}, {"s": SCORES[:, :1] + 0.5}
    keys = (KEYS, {"s": ("early",)})
    match = SignatureMatch(inputs=(), outputs=(("s", "s"),))
    floor = floor_of(output_pairs(before, before, keys=(KEYS, KEYS)))
    reports = []
    for at, end in (((), None), (cuts_at, stop)):
        diff = OutputDiff(match, floor)
        for i, pair in enumerate(output_pairs(before, after, at, keys)):
            if i == end:
                diff = OutputDiff.from_state(saved(diff.state()), match, floor)
            diff.update(pair)
        reports.append(diff.finish())
    assert canonical(reports[0]) == canonical(reports[1])


def test_another_test_order_finds_the_same():
    order = RNG.permutation(N)
    _, report = features(())
    diff = FeatureDiff(FLOOR, graph(), graph(), ("weekday",))
    shuffled = [{k: v[order] for k, v in side.items()} for side in (FLIGHTS, FAULTY)]
    for pair in feature_pairs(*shuffled):
        diff.update(pair)
    again = diff.finish()
    assert again.roots == report.roots
    assert [
        (f.name, f.mismatched_requests, f.max_abs, f.verdict, f.relation, f.value)
        for f in again.features
    ] == [
        (f.name, f.mismatched_requests, f.max_abs, f.verdict, f.relation, f.value)
        for f in report.features
    ]


@settings(max_examples=15, deadline=None)
@given(cuts, st.integers(0, 6))
def test_fidelity_and_observer_reports_resume_to_the_same(cuts_at, stop):
    score = SCORES[:, 0].astype(np.float32)
    wrong = np.where(np.arange(N) % 50 == 0, score + 1, score)
    floor = floor_of(output_pairs({"p": score}, {"p": score}))
    reports = []
    for at, end in (((), None), (cuts_at, stop)):
        faithful, observer = FaithfulDiff(floor), ObserverDiff(floor)
        for i, part in enumerate(pieces(N, at)):
            if i == end:
                faithful = FaithfulDiff.from_state(saved(faithful.state()), floor)
                observer = ObserverDiff.from_state(saved(observer.state()), floor)
            size = part.stop - part.start
            asked = requests(size, start=part.start, recorded={"p": score[part]})
            seen = observed(size, outputs={"p": wrong[part]}, traced={"p": score[part]})
            faithful.update(asked, seen)
            for pair in output_pairs({"p": score[part]}, {"p": score[part]}):
                observer.update(type(pair)(requests=asked, baseline=seen, candidate=pair.candidate))
        reports.append((faithful.finish(), observer.finish()))
    assert reports[0] == reports[1]
    assert reports[0][0].mismatched == N // 50
    assert reports[0][1].mismatched == N // 50


def test_state_stays_small_however_long_the_stream():
    diff = FeatureDiff(FLOOR, graph(), graph())
    sizes = []
    for _ in range(6):
        for pair in feature_pairs(FLIGHTS, FAULTY, (450,)):
            diff.update(pair)
        sizes.append(sum(a.nbytes for a in diff.state().values()))
    assert max(sizes[3:]) - min(sizes[3:]) < 64
    assert all(a.dtype != object for a in diff.state().values())


def bytes_of(state):
    return {name: (v.dtype.str, v.shape, v.tobytes()) for name, v in state.items()}


@settings(max_examples=25, deadline=None)
@given(cuts)
def test_a_checkpoint_after_every_batch_changes_no_state(cuts_at):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "LIMIT", 200)
        often, once = (FeatureDiff(FLOOR, graph(), graph()) for _ in range(2))
        for pair in feature_pairs(FLIGHTS, FAULTY, cuts_at):
            once.update(pair)
            often.update(pair)
            found = often.state()
            # Asked again before the next batch, as for traffic without features.
            assert bytes_of(often.state()) == bytes_of(found)
        assert bytes_of(often.state()) == bytes_of(once.state())
    assert often.finish() == once.finish()


def test_a_sample_of_which_a_state_was_taken_keeps_the_columns_that_come_later():
    rows = np.arange(12.0).reshape(6, 2)
    often, once = sample.RowSample(), sample.RowSample()
    for kept in (often, once):
        kept.add_equal(rows[:, :1])
        kept.add(rows, rows + 1, np.ones(6, np.bool_))
    assert bytes_of(often.state()) == bytes_of(once.state())
    often.state()
    for kept in (often, once):
        kept.add_equal(rows)
    assert bytes_of(often.state()) == bytes_of(once.state())
    for index in (0, 1):
        for seen, wanted in zip(often.column(index), once.column(index), strict=True):
            np.testing.assert_array_equal(seen, wanted)
