"""Late, held and swapped values are named in any shape: columns, matrices, logged copies."""

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph, observed, requests

from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features
from harness.diff.served import ServedDiff

N = 600
RNG = np.random.default_rng(11)
SPEED = RNG.normal(50, 12, (N, 1)).astype(np.float32)
FUEL = RNG.normal(10, 3, (N, 1)).astype(np.float32)
HOUR = RNG.integers(0, 24, (N, 1)).astype(np.float32)
SLOW = (1000 + np.cumsum(RNG.normal(0, 0.01, N))).astype(np.float32)
WIDTHS = (5, 100)


def late(values, lag=1):
    return np.concatenate([values[:lag], values[:-lag]])


def report_of(before, after, cut=250):
    """The report of a stream whose state was saved in the middle."""
    floor = floor_of(feature_pairs(before, before))
    declared = graph(features=tuple(before), fitted=(), vocabularies=())
    diff = FeatureDiff(floor, declared, declared)
    for pair in feature_pairs(before, after, (cut,)):
        diff.update(pair)
        diff = FeatureDiff.from_state(diff.state(), floor, declared, declared)
    return diff.finish()


def texts(before, after):
    return {r.name: r.text for r in report_of(before, after).features if r.mismatched_requests}


def matrix(width):
    return np.random.default_rng(width).normal(50, 12, (N, width)).astype(np.float32)


def one_hot(codes, count):
    return np.eye(count, dtype=np.float32)[codes]


def test_a_late_copy_in_a_column_is_named():
    found = texts({"speed": SPEED}, {"speed": late(SPEED, 3)})
    assert found == {"speed[0]": "candidate = the baseline's value 3 rows earlier (stale copy?)"}


def test_swapped_columns_of_one_value_a_row_are_named():
    found = texts({"speed": SPEED, "fuel": FUEL}, {"speed": FUEL, "fuel": SPEED})
    assert found["speed[0]"] == "candidate = the baseline's fuel (columns swapped?)"
    assert found["fuel[0]"] == "candidate = the baseline's speed (columns swapped?)"


def test_a_column_that_follows_from_another_one_is_named():
    other = np.float32((HOUR + 4) % 24)
    before = {"hour": HOUR, "hour_sin": np.sin(HOUR * np.float32(np.pi / 12))}
    after = {"hour": other, "hour_sin": np.sin(other * np.float32(np.pi / 12))}
    report = report_of(before, after)
    assert report.roots == ("hour",)
    assert [(f.name, f.root, f.proven) for f in report.follows] == [("hour_sin", "hour", True)]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_late_column_of_a_matrix_is_named(width):
    before = matrix(width)
    after = before.copy()
    after[:, 3] = late(before[:, 3])
    found = texts({"m": before}, {"m": after})
    assert found == {"m[3]": "candidate = the baseline's value 1 row earlier (stale copy?)"}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_matrix_that_is_late_as_a_whole_is_named(width):
    before = matrix(width)
    found = texts({"m": before}, {"m": late(before)})
    shown = [
        t
        for t in found.values()
        if t == "candidate = the baseline's value 1 row earlier (stale copy?)"
    ]
    assert len(shown) >= min(width, 1)
    assert not [t for t in found.values() if t.startswith("no simple relation")]


@pytest.mark.parametrize("width", WIDTHS)
def test_swapped_columns_of_a_matrix_are_named(width):
    before = matrix(width)
    after = before.copy()
    after[:, [0, 4]] = before[:, [4, 0]]
    found = texts({"m": before}, {"m": after})
    assert found == {
        "m[0]": "candidate = the baseline's m[4] (columns swapped?)",
        "m[4]": "candidate = the baseline's m[0] (columns swapped?)",
    }


def test_a_column_of_a_matrix_that_carries_another_feature_is_named():
    before = {"m": matrix(5), "fuel": FUEL}
    after = {"m": before["m"].copy(), "fuel": FUEL}
    after["m"][:, 2] = FUEL[:, 0]
    assert texts(before, after) == {"m[2]": "candidate = the baseline's fuel (columns swapped?)"}


@pytest.mark.parametrize("count", [8, 100])
def test_permuted_categories_of_a_one_hot_are_named_once(count):
    codes = np.random.default_rng(count).integers(0, count, N)
    codes[:count] = np.arange(count)
    order = np.roll(np.arange(count), 3)
    before = one_hot(codes, count)
    report = report_of({"oh": before}, {"oh": before[:, order]})
    found = [f for f in findings_from_features(report, 0.0) if f.kind == "feature_changed"]
    assert [f.where for f in found] == [f"oh[{count} columns]"]
    assert found[0].relation == "permuted"
    assert "the baseline's columns in another order: 0 is " in found[0].what
    assert "in 100 % of 600 requests" in found[0].what


def test_permuted_categories_that_the_kept_rows_do_not_all_have_are_named_once():
    codes = np.random.default_rng(4).integers(0, 1000, N)
    before = one_hot(codes, 1000)
    found = texts({"oh": before}, {"oh": before[:, np.roll(np.arange(1000), 3)]})
    assert len(found) == 1
    assert next(iter(found.values())).endswith("as 524 rows show")


def test_two_swapped_flags_are_named_once():
    flags = (np.random.default_rng(5).random((N, 4)) < 0.3).astype(np.float32)
    found = texts({"m": flags}, {"m": flags[:, [0, 2, 1, 3]]})
    order = "candidate holds the baseline's columns in another order: 1 is 2, 2 is 1"
    assert found == {"m[2 columns]": order}


def test_other_values_in_every_column_are_no_order():
    before, other = matrix(5), np.random.default_rng(3).normal(50, 12, (N, 5)).astype(np.float32)
    found = texts({"m": before}, {"m": other})
    assert len(found) == 5
    assert all(t.startswith("no simple relation") for t in found.values())


@pytest.mark.parametrize("lag", [1, 7, 90])
def test_a_late_copy_of_values_that_move_slowly_is_no_lower_precision(lag):
    found = report_of({"slow": SLOW}, {"slow": late(SLOW, lag)}).features[0]
    assert (found.relation, found.value) == ("stale", lag)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_held_copy_of_values_that_move_slowly_is_no_lower_precision(lag):
    at = np.maximum(np.arange(N) // 40 * 40 - lag, 0)
    found = report_of({"slow": SLOW}, {"slow": SLOW[at]}).features[0]
    assert (found.relation, found.value) == ("stale", 40.0)


def test_half_a_late_copy_is_not_held():
    after = np.where(np.arange(N) < N // 2, SLOW, late(SLOW))
    found = report_of({"slow": SLOW}, {"slow": after}).features[0]
    assert (found.relation, found.value) == ("stale", 1.0)


@pytest.mark.parametrize(
    "rounding",
    [lambda x: np.float16(x).astype(np.float32), lambda x: np.round(x, 1), np.floor],
)
def test_values_that_move_slowly_and_are_rounded_are_no_late_copy(rounding):
    slow = 1000 + 20 * (SLOW - 1000)
    found = report_of({"slow": slow}, {"slow": rounding(slow).astype(np.float32)}).features[0]
    assert found.relation == "precision"


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
@pytest.mark.parametrize("logged", [(N,), (N, 1)])
def test_a_logged_copy_that_is_late_is_named_in_either_shape(shape, logged):
    values = SPEED.reshape(shape)
    floor = floor_of(feature_pairs({"speed": values}, {"speed": values}))
    diff = ServedDiff(floor)
    recorded = {"feature:speed": late(SPEED).reshape(logged)}
    diff.update(requests(N, recorded=recorded), observed(N, features={"speed": values}))
    found = diff.finish().features[0]
    assert found.text == "served = the recomputed one's value 1 row earlier (stale copy?)"


def test_logged_features_that_are_swapped_are_named():
    features = {"speed": SPEED, "fuel": FUEL}
    diff = ServedDiff(floor_of(feature_pairs(features, features)))
    recorded = {"feature:speed": FUEL, "feature:fuel": SPEED}
    diff.update(requests(N, recorded=recorded), observed(N, features=features))
    assert [r.text for r in diff.finish().features] == [
        "served = the recomputed one's fuel (columns swapped?)",
        "served = the recomputed one's speed (columns swapped?)",
    ]
