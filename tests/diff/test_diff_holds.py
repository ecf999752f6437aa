"""Copies that are late, held or cut off, and what must not be taken for one."""

import numpy as np
import pytest
from diff_streams import feature_pairs, flight_features, floor_of, graph
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diff.features import FeatureDiff
from harness.diff.pairs import RelationKind as Kind
from harness.diff.relations import name_relation

N = 1500
WORDS = np.array(["AA", "B6", "DL", "EV", "UA", "US", "WN"], dtype=object)
seeds = st.integers(0, 10_000)


def in_test_order(rng, before, after):
    """The rows in a random order, with their places in time."""
    place = rng.permutation(len(before))
    return before[place], after[place], place


def late(values, lag):
    return np.concatenate([values[:lag], values[:-lag]])


def kept(values, updates):
    """Each value until the next update."""
    at = np.maximum.accumulate(np.where(updates, np.arange(len(values)), 0))
    return values[at]


@settings(max_examples=30, deadline=None)
@given(lag=st.integers(51, 400), distinct=st.integers(4, 40), seed=seeds)
def test_a_long_lag_is_found_where_values_repeat(lag, distinct, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, distinct, N).astype(np.float32)
    before, after, place = in_test_order(rng, values, late(values, lag))
    found = name_relation(before, after, order=place)
    assert (found.kind, found.value) == (Kind.STALE, lag)


@settings(max_examples=30, deadline=None)
@given(lag=st.integers(1, 300), seed=seeds)
def test_words_of_an_earlier_row_are_a_stale_copy(lag, seed):
    rng = np.random.default_rng(seed)
    values = WORDS[rng.integers(0, len(WORDS), N)]
    before, after, place = in_test_order(rng, values, late(values, lag))
    found = name_relation(before, after, order=place)
    assert (found.kind, found.value) == (Kind.STALE, lag)
    assert name_relation(before, after).kind == Kind.OTHER


@settings(max_examples=30, deadline=None)
@given(every=st.integers(2, 40), regular=st.booleans(), words=st.booleans(), seed=seeds)
def test_a_value_that_is_held_until_the_next_update_is_named(every, regular, words, seed):
    rng = np.random.default_rng(seed)
    values = WORDS[rng.integers(0, len(WORDS), N)] if words else rng.normal(0, 1, N)
    updates = np.arange(N) % every == 0 if regular else rng.random(N) < 1 / every
    before, after, place = in_test_order(rng, values, kept(values, updates))
    found = name_relation(before, after, order=place)
    assert found.kind == Kind.STALE
    assert "last of its updates" in found.text
    if regular and not words:
        assert found.value == every


@settings(max_examples=30, deadline=None)
@given(lag=st.integers(1, 20), seed=seeds)
def test_a_late_copy_of_values_that_stay_for_long_is_late_and_not_held(lag, seed):
    rng = np.random.default_rng(seed)
    # Every thirtieth row or so brings a new value, and at least 30 rows differ: the rule asks for so many.
    updates = np.cumsum(rng.integers(15, 46, N // 45 + 1))
    values = kept(rng.normal(0, 1, N), np.isin(np.arange(N), updates))
    before, after, place = in_test_order(rng, values, late(values, lag))
    found = name_relation(before, after, order=place)
    assert (found.kind, found.value) == (Kind.STALE, lag)


@settings(max_examples=60, deadline=None)
@given(distinct=st.integers(2, 60), smooth=st.booleans(), share=st.floats(0.01, 1.0), seed=seeds)
def test_columns_that_differ_at_random_have_no_name(distinct, smooth, share, seed):
    """A retrain changes values here and there; also of columns that move slowly in time."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.3, N)) if smooth else rng.normal(0, 1, N)
    codes = np.digitize(walk, np.quantile(walk, np.linspace(0, 1, distinct + 1)[1:-1]))
    changed = rng.random(N) < share
    after = np.where(changed, rng.permutation(codes), codes)
    before, after, place = in_test_order(rng, codes, after)
    named = name_relation(before, after, order=place)
    if distinct > 2:  # of two codes, the other one is always "permuted"
        assert named.kind in (Kind.OTHER, Kind.EQUAL)
    letters = np.array([f"w{i}" for i in range(distinct)], object)
    words = name_relation(letters[before], letters[after], order=place)
    assert words.kind != Kind.STALE


@settings(max_examples=40, deadline=None)
@given(smooth=st.booleans(), noise=st.floats(1e-3, 1.0), seed=seeds)
def test_noise_in_time_is_no_copy_and_no_line(smooth, noise, seed):
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.normal(0, 1, N)) if smooth else rng.normal(0, 1, N)
    after = values + rng.normal(0, noise, N) * values.std()
    before, after, place = in_test_order(rng, values, after)
    assert name_relation(before, after, order=place).kind == Kind.OTHER


@settings(max_examples=40, deadline=None)
@given(
    factor=st.sampled_from([1.609344, 60.0, 0.3048, 1.37, 1000.0]),
    plus=st.sampled_from([0.0, 32.0]),
    ends=st.sampled_from([(None, 0.8), (0.2, None), (0.1, 0.9)]),
    single=st.booleans(),
    seed=seeds,
)
def test_a_line_that_stops_at_a_bound_is_named_with_both(factor, plus, ends, single, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(60, 18, N)
    values = values.astype(np.float32) if single else values
    line = factor * values + plus
    low, high = (None if q is None else np.quantile(line, q).astype(line.dtype) for q in ends)
    found = name_relation(values, np.clip(line, low, high).astype(values.dtype))
    assert found.kind == (Kind.AFFINE if plus else Kind.SCALED)
    assert found.value == pytest.approx(factor, rel=1e-4)
    assert "clipped" in found.text


def test_a_shift_that_stops_at_a_bound_is_named_with_both():
    values = np.random.default_rng(4).normal(60, 18, N)
    found = name_relation(values, np.minimum(values + 5, 80))
    assert (found.kind, found.value) == (Kind.SHIFTED, pytest.approx(5.0))
    assert found.text.endswith("clipped at 80")


@settings(max_examples=40, deadline=None)
@given(ends=st.sampled_from([(None, 0.8), (0.2, None), (0.1, 0.9)]), seed=seeds)
def test_another_column_that_stops_at_a_bound_is_no_line(ends, seed):
    rng = np.random.default_rng(seed)
    values, other = rng.normal(60, 18, (2, N))
    low, high = (None if q is None else np.quantile(other, q) for q in ends)
    assert name_relation(values, np.clip(other, low, high)).kind == Kind.OTHER


STREAM = flight_features(3000, np.random.default_rng(2013))


def named(candidate, inputs):
    """The relation of each feature that differs, with these inputs recorded."""
    floor = floor_of(feature_pairs(STREAM, STREAM))
    diff = FeatureDiff(floor, graph(), graph())
    start = 0
    for pair in feature_pairs(STREAM, candidate):
        rows = slice(start, start + len(pair))
        start += len(pair)
        pair.requests.inputs.update({name: values[rows] for name, values in inputs.items()})
        diff.update(pair)
    return {r.name: r for r in diff.finish().features if r.mismatched_requests}


def test_a_feature_that_holds_an_undeclared_input_is_named():
    rng = np.random.default_rng(5)
    seats = rng.integers(20, 400, 3000).astype(np.float32)
    inputs = {"plane_seats": seats, "noise": rng.normal(0, 1, 3000).astype(np.float32)}
    found = named(STREAM | {"distance": seats}, inputs)
    assert found["distance"].relation == "other_column"
    assert "the input plane_seats" in found["distance"].text


def test_random_inputs_name_nothing():
    rng = np.random.default_rng(6)
    inputs = {f"i{k}": rng.normal(0, 1, 3000).astype(np.float32) for k in range(20)}
    changed = rng.permutation(STREAM["distance"])
    assert named(STREAM | {"distance": changed}, inputs)["distance"].relation == "other"
