"""No fit rounds values, cuts them off or forgets a mean: told though every constant is fitted anew."""

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features

DECLARED = graph(features=("raw",), fitted=("scaled",), vocabularies=())
SCALERS = {
    "standard": lambda t: (np.nanmean(t, 0), np.nanstd(t, 0)),
    "min-max": lambda t: (np.nanmin(t, 0), np.ptp(t, 0)),
    "max-abs": lambda t: (0.0, np.abs(t).max(0)),
    "robust": lambda t: (np.median(t, 0), np.subtract(*np.quantile(t, [0.75, 0.25], axis=0))),
}
FAULTS = {
    "float16": (lambda v: v.astype(np.float16).astype(np.float32), "rounded to float16"),
    "bfloat16": (
        lambda v: (v.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
        "rounded to bfloat16",
    ),
    "rounded": (lambda v: np.round(v, 2).astype(np.float32), "rounded to 2 decimals"),
    "truncated": (lambda v: (np.trunc(v * 100) / 100).astype(np.float32), "rounded to 2 decimals"),
    "above": (lambda v: np.minimum(v, np.quantile(v, 0.9).astype(np.float32)), "cut off at "),
    "below": (lambda v: np.maximum(v, np.quantile(v, 0.05).astype(np.float32)), "cut off at "),
}


def drawn(rng, rows):
    return np.stack(
        [
            rng.normal(50, 10, rows),
            rng.beta(8, 2, rows),
            rng.integers(0, 24, rows),
            np.round(np.exp(rng.normal(2, 1.5, rows)), 2),
            rng.poisson(1.2, rows),
        ],
        axis=1,
    )


def versions(scaler, seed):
    """Raw values, and what two fits make of them."""
    rng = np.random.default_rng(seed)
    x = drawn(rng, 600).astype(np.float32)
    fits = [SCALERS[scaler](drawn(rng, int(rng.integers(300, 3000)))) for _ in range(2)]
    return x, *(((x - np.float32(m)) / np.float32(s)).astype(np.float32) for m, s in fits)


def told(x, before, after):
    old, new = ({"raw": x, "scaled": y} for y in (before, after))
    diff = FeatureDiff(floor_of(feature_pairs(old, old)), DECLARED, DECLARED)
    for pair in feature_pairs(old, new):
        diff.update(pair)
    return [f for f in findings_from_features(diff.finish(), 0.0) if f.severity != "info"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scaler", SCALERS)
def test_a_clean_refit_names_none(scaler, seed):
    assert not told(*versions(scaler, seed))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scaler", SCALERS)
def test_what_no_fit_does_is_named_in_its_column(scaler, fault):
    distort, words = FAULTS[fault]
    x, before, after = versions(scaler, 5)
    after[:, 0] = distort(np.ascontiguousarray(after[:, 0]))
    (found,) = told(x, before, after)
    assert found.kind == "suspicious_refit"
    assert f"a line of raw[0] → {words}" in found.what


@pytest.mark.parametrize("column", [1, 3])
@pytest.mark.parametrize("fault", ["float16", "whole"])
def test_digits_lost_in_a_column_of_another_form_are_named(fault, column):
    """Of values over decades most are near the line; of few steps in the range none is."""
    distort, words = FAULTS.get(fault, (np.trunc, "rounded to whole numbers"))
    x, before, after = versions("standard", 5)
    after[:, column] = distort(np.ascontiguousarray(after[:, column]))
    (found,) = told(x, before, after)
    assert f"a line of raw[{column}] → {words}" in found.what


def test_digits_lost_behind_a_logarithm_are_named():
    rng = np.random.default_rng(4)
    x = np.exp(rng.normal(2, 1.5, (600, 1))).astype(np.float32)
    before, after = ((np.log1p(x) - m) / np.float32(s) for m, s in ((2.1, 1.4), (2.2, 1.3)))
    assert not told(x, before.astype(np.float32), after.astype(np.float32))
    (found,) = told(x, before, after.astype(np.float16).astype(np.float32))
    assert "a line of log(1 + raw) → rounded to float16" in found.what


def test_rounding_beside_the_same_constants_is_named_once():
    x, before, _ = versions("standard", 5)
    after = before.copy()
    after[:, 0] = np.round(after[:, 0], 2)
    (found,) = told(x, before, after)
    assert found.kind == "lower_precision"


def test_a_forgotten_mean_is_named_and_the_other_columns_are_not():
    x, before, _ = versions("standard", 7)
    mean, scale = SCALERS["standard"](drawn(np.random.default_rng(8), 2000))
    mean[[0, 4]] = 0.0
    after = ((x - mean.astype(np.float32)) / scale.astype(np.float32)).astype(np.float32)
    (found,) = told(x, before, after)
    assert found.where == "raw[0], raw[4]"
    assert "nothing is taken away" in found.what


def test_a_least_value_that_becomes_0_is_a_fit():
    x, _, after = versions("min-max", 9)
    assert not told(
        x, ((x - np.float32(1)) / np.float32(22)).astype(np.float32)[:, [2]], after[:, [2]]
    )
