"""Components and values of categories that changed places are told; what a clean fit does is not."""

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features
from harness.diff.refit_orders import exchanged_values

DECLARED = graph(features=("raw",), fitted=("fitted",), vocabularies=())
MEANS = np.float32([0.21, 0.35, 0.28, 0.44, 0.19, 0.3])


def findings(raw, before, after, changed=None):
    sides = [
        {"raw": values, "fitted": side}
        for values, side in ((raw, before), (raw if changed is None else changed, after))
    ]
    diff = FeatureDiff(floor_of(feature_pairs(sides[0], sides[0])), DECLARED, DECLARED)
    for pair in feature_pairs(*sides):
        diff.update(pair)
    return findings_from_features(diff.finish(), 0.0)


def told(*given):
    return [f.what for f in findings(*given) if f.severity != "info"]


def rows_of(rng, rows, spread=(4.0, 2.0, 1.0, 0.3)):
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    return rng.normal(size=(rows, 4)) * spread @ turned


def components(sample, x):
    """The first three, with the sign that makes the largest weight positive."""
    _, _, rows = np.linalg.svd(sample - sample.mean(0), full_matrices=False)
    rows = rows[:3] * np.sign(rows[np.arange(3), np.abs(rows[:3]).argmax(1)])[:, None]
    return ((x - sample.mean(0)) @ rows.T).astype(np.float32)


def fitted_twice(seed, spread=(4.0, 2.0, 1.0, 0.3)):
    rng = np.random.default_rng(seed)
    x = rows_of(rng, 600, spread)
    samples = [rows_of(rng, int(rng.integers(400, 3000)), spread) for _ in range(2)]
    return (x.astype(np.float32), *(components(sample, x) for sample in samples))


@pytest.mark.parametrize("seed", range(4))
def test_components_fitted_anew_are_no_swapped_columns(seed):
    assert told(*fitted_twice(seed)) == []


def test_components_that_changed_places_are_named_though_fitted_anew():
    x, before, after = fitted_twice(0)
    (said,) = told(x, before, after[:, [1, 0, 2]])
    assert said == "fitted order 0, 1 → 1, 0 in fitted[0], fitted[1]: columns swapped?"


@pytest.mark.parametrize(("wider", "named"), [(1.1, False), (2.0, True)])
def test_components_of_nearly_one_spread_come_in_any_order(wider, named):
    """Nothing tells which was the first: said, and not named."""
    before = np.random.default_rng(3).normal(size=(600, 3)).astype(np.float32)
    before *= np.float32([4.0, wider, 1.0]) / before.std(axis=0)
    after = before[:, [0, 2, 1]] * np.float32(1.001)
    raw = np.random.default_rng(4).normal(size=(600, 1))
    assert bool(told(raw, before, after)) == named
    if not named:
        (said,) = (f.what for f in findings(raw, before, after) if f.kind == "refitted")
        assert "a fault in 3 columns (fitted[0], fitted[1], fitted[2]) cannot be told" in said


def coded(code):
    return code.astype(np.float32)[:, None]


CODE = np.random.default_rng(2).integers(0, 6, 900)


def test_a_mean_by_category_that_belongs_to_another_one_is_named():
    after = MEANS[[1, 0, 3, 2, 5, 4]]
    (said,) = told(coded(CODE), coded(MEANS[CODE]), coded(after[CODE]))
    assert "where the baseline has" in said
    assert "the same values for other categories, which no fit gives" in said


def test_means_by_category_of_other_rows_are_a_fit_and_said_to_hide_a_fault():
    after = MEANS[[1, 0, 3, 2, 5, 4]] + np.float32(0.003)
    given = coded(CODE), coded(MEANS[CODE]), coded(after[CODE])
    assert told(*given) == []
    (said,) = (f.what for f in findings(*given) if f.kind == "refitted")
    assert said.endswith(
        "(fitted[0]) cannot be told from a refit: no constant can be read off the values"
    )


def test_means_follow_codes_that_are_permuted_upstream():
    other = np.array([1, 0, 3, 2, 5, 4])[CODE]
    said = told(coded(CODE), coded(MEANS[CODE]), coded(MEANS[other]), coded(other))
    assert len(said) == 1
    assert said[0].startswith("raw[0]: codes permuted")


@pytest.mark.parametrize(
    "values", [np.arange(6.0), np.arange(6.0) / 7, [0.5, 1.5, 0.5, 1.5, 1.5, 0.5]]
)
def test_codes_and_ranks_may_be_given_out_in_another_order(values):
    values = np.asarray(values)
    assert exchanged_values(values[CODE], values[[1, 0, 3, 2, 5, 4]][CODE]) == ""


def test_flags_in_another_order_are_listed_and_are_no_warning():
    rng = np.random.default_rng(4)
    flags = (rng.random((300, 5)) < 0.4).astype(np.float32)
    raw = rng.normal(size=300)
    (listed,) = findings(raw, flags, flags[:, [0, 2, 1, 3, 4]])
    assert "refitted: 1 constant (fitted order 1, 2 → 2, 1)" in listed.what
    assert "a fault in 2 columns (fitted[1], fitted[2]) cannot be told from a refit" in listed.what
    assert listed.severity == "info"
    noise = np.where(rng.random((300, 5)) < 0.02, 1 - flags, flags).astype(np.float32)
    for after, upstream in ((noise, raw), (flags[:, [0, 2, 1, 3, 4]], raw + 1)):
        assert not [f for f in findings(raw, flags, after, upstream) if " order " in f.what]
