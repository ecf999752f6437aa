"""A fault among many refitted columns is named, however wide the fitted matrix is."""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features
from harness.diff.whole import permuted_columns

N = 600
WIDTHS = (60, 120, 1000)
DECLARED = graph(features=("age",), fitted=("imputed",), vocabularies=())


def matrix(width, seed):
    """Columns of many scales, a tenth of their values missing."""
    scale = np.random.default_rng(0).permutation(np.logspace(-2, 3, width))
    rng = np.random.default_rng(seed)
    values = ((rng.normal(size=(N, width)) + 3) * scale).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    return values


def fills(width, seed):
    scale = np.random.default_rng(0).permutation(np.logspace(-2, 3, width))
    return (3 * scale * (1 + 0.02 * np.random.default_rng(seed).normal(size=width))).astype("f4")


def imputed(values, fill):
    return np.where(np.isnan(values), fill, values)


def compared(before, after, cut=250, **inputs):
    floor = floor_of(feature_pairs(before, before))
    diff = FeatureDiff(floor, DECLARED, DECLARED)
    at = 0
    for pair in feature_pairs(before, after, (cut,)):
        given = {name: values[at : at + len(pair)] for name, values in inputs.items()}
        at += len(pair)
        diff.update(replace(pair, requests=replace(pair.requests, inputs=given)))
        diff = FeatureDiff.from_state(diff.state(), floor, DECLARED, DECLARED)
    return diff.finish()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_fill_that_became_zero_is_named_among_refitted_ones(width):
    raw, age = matrix(width, 1), np.arange(N, dtype=np.float32)
    old, new = fills(width, 2), fills(width, 3)
    new[50] = 0.0
    report = compared(
        {"age": age, "imputed": imputed(raw, old)}, {"age": age, "imputed": imputed(raw, new)}
    )
    found = [f for f in findings_from_features(report, None) if f.kind == "filled_with_zero"]
    assert [f.where for f in found] == ["imputed[50]"]
    refitted = [f for f in findings_from_features(report, None) if f.kind == "refitted"]
    assert refitted[0].what.startswith(f"{width - 1:,} columns of imputed changed")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_clean_refit_of_all_fills_names_no_zero(width):
    raw, age = matrix(width, 1), np.arange(N, dtype=np.float32)
    old, new = (imputed(raw, fills(width, seed)) for seed in (2, 3))
    report = compared({"age": age, "imputed": old}, {"age": age, "imputed": new})
    assert {f.kind for f in findings_from_features(report, None)} == {"refitted"}


@pytest.mark.parametrize("width", WIDTHS)
def test_constants_of_a_column_are_read_off_at_any_width(width):
    raw = matrix(width, 1)
    age = raw[:, 50].copy()
    old, new = fills(width, 2), fills(width, 3)
    new[50] = 0.0
    report = compared(
        {"age": age, "imputed": imputed(raw, old)}, {"age": age, "imputed": imputed(raw, new)}
    )
    found = [(r.tensor, r.role, r.baseline, r.candidate, bool(r.suspicious)) for r in report.refits]
    assert found == [("imputed[50]", "fill", pytest.approx(float(old[50])), 0.0, True)]


@pytest.mark.parametrize("width", [60, 65, 300])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_permuted_columns_are_found_at_any_width(width, noise):
    rng = np.random.default_rng(width)
    before = rng.normal(size=(64, width)).astype(np.float32)
    order = rng.permutation(width)
    after = before[:, order] * np.float32(1 + noise)
    assert permuted_columns(before, after, tolerance=1e-6) == tuple(order.tolist())


@pytest.mark.parametrize("width", [60, 300])
def test_columns_of_which_one_is_another_are_no_permutation(width):
    before = np.random.default_rng(width).normal(size=(64, width)).astype(np.float32)
    after = before[:, ::-1].copy()
    after[:, 7] += 1
    assert permuted_columns(before, after, tolerance=1e-6) == ()


def test_equal_columns_keep_their_own_place():
    before = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)
    before[:, 3] = before[:, 90]
    after = before.copy()
    after[:, [10, 20]] = before[:, [20, 10]]
    order = list(range(100))
    order[10], order[20] = 20, 10
    assert permuted_columns(before, after, tolerance=1e-6) == tuple(order)
