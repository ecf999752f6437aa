"""Faults in fitted tensors are no fitted constants, whatever else was fitted anew."""

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features

N = 600
WIDTHS = (6, 70)


def raw_of(width):
    rng = np.random.default_rng(width)
    values = rng.normal(size=(N, width)) * np.exp(rng.normal(0, 1, width)) + rng.normal(0, 5, width)
    values[rng.random(values.shape) < 0.05] = np.nan
    return values.astype(np.float32)


def constants(raw, seed):
    """Fill, mean and scale by column; another seed is another fit."""
    rng = np.random.default_rng(seed)
    fill, mean, scale = np.nanmedian(raw, 0), np.nanmean(raw, 0), np.nanstd(raw, 0)
    moved = 1 + 0.02 * rng.normal(size=(3, raw.shape[1])) if seed else np.ones((3, 1))
    return [(c * m).astype(np.float32) for c, m in zip((fill, mean, scale), moved, strict=True)]


def scaled(raw, fitted):
    fill, mean, scale = fitted
    return ((np.where(np.isnan(raw), fill, raw) - mean) / scale).astype(np.float32)


def warnings(before, after, raw=None, *, matrix=False):
    """(kind, where, what) of the warnings; raw columns declared as one matrix, one by one, or not at all."""
    given = {}
    if raw is not None:
        columns = {f"r{i}": raw[:, [i]] for i in range(raw.shape[1])}
        given = {"raw": raw} if matrix else columns
    given = given or {"other": np.arange(len(before))}
    sides = [given | {"scaled": side} for side in (before, after)]
    declared = graph(features=tuple(given), fitted=("scaled",), vocabularies=())
    diff = FeatureDiff(floor_of(feature_pairs(sides[0], sides[0])), declared, declared)
    for pair in feature_pairs(*sides, (250,)):
        diff.update(pair)
    found = findings_from_features(diff.finish(), None)
    assert {f.severity.value for f in found if f.kind == "refitted"} <= {"info"}
    return [(f.kind, f.where, f.what) for f in found if f.severity.value != "info"]


def distorted(values, fault):
    values = values.copy()
    match fault:
        case "sign":
            values[:, 3] *= -1
        case "x60":
            values[:, 3] *= 60
        case "miles":
            values[:, 3] *= np.float32(1.609344)
        case "fahrenheit":
            values[:, 3] = values[:, 3] * np.float32(1.8) + 32
        case "swap":
            values[:, [2, 3]] = values[:, [3, 2]]
        case "clip":
            values[:, 3] = np.clip(values[:, 3], -1.5, 1.5)
    return values


TOLD = {
    "sign": ("r3", "the candidate's values have the other sign"),
    "x60": ("r3", "the candidate's values are × 60 (minutes → seconds"),
    "miles": ("r3", "the candidate's values are × 1.609344 (miles → kilometres?)"),
    "fahrenheit": ("r3", "the candidate's values are another unit (°C → °F?)"),
    "swap": ("scaled", "order r2, r3 → r3, r2 in scaled[2], scaled[3]: columns swapped?"),
    "clip": ("scaled[3]", "candidate is clipped to [-1.5, 1.5]"),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("fault", TOLD)
def test_a_fault_where_nothing_was_refitted_is_named(width, fault):
    raw = raw_of(width)
    before = scaled(raw, constants(raw, 0))
    found = warnings(before, distorted(before, fault), raw)
    assert [(kind, where) for kind, where, _ in found] == [("suspicious_refit", TOLD[fault][0])]
    assert TOLD[fault][1] in found[0][2]


@pytest.mark.parametrize("fault", ["sign", "x60", "swap"])
def test_a_fault_among_refitted_columns_is_named(fault):
    raw = raw_of(6)
    after = distorted(scaled(raw, constants(raw, 1)), fault)
    found = warnings(scaled(raw, constants(raw, 0)), after, raw)
    assert [(kind, where) for kind, where, _ in found] == [("suspicious_refit", TOLD[fault][0])]


@pytest.mark.parametrize("fault", ["sign", "x60", "miles", "clip", "swap"])
def test_a_fault_in_a_tensor_of_no_declared_feature_is_named(fault):
    before = scaled(raw_of(6), constants(raw_of(6), 0))
    found = warnings(before, distorted(before, fault))
    where = {"swap": "scaled"}.get(fault, "scaled[3]")
    assert [(kind, place) for kind, place, _ in found] == [("suspicious_refit", where)]


@pytest.mark.parametrize("width", [6, 70, 300])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_forgotten_scaler_of_a_raw_matrix_is_named(width, everywhere):
    raw = raw_of(width)
    fill, mean, scale = constants(raw, 1)
    scale[:] = 1 if everywhere else np.where(np.arange(width) == 4, 1, scale)
    found = warnings(
        scaled(raw, constants(raw, 0)), scaled(raw, (fill, mean, scale)), raw, matrix=True
    )
    assert [kind for kind, _, _ in found] == ["suspicious_refit"]
    assert "the candidate does not scale it" in found[0][2]
    more = f"so are {width - 1} more columns"
    assert (more in found[0][2]) if everywhere else (found[0][1] == "raw[4]")


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("matrix", [False, True])
def test_a_clean_refit_is_doubted_in_no_column(seed, matrix):
    raw = raw_of(70)
    sides = [scaled(raw, constants(raw, s)) for s in (0, seed)]
    assert warnings(*sides, raw, matrix=matrix) == []


def test_another_fitted_bound_is_no_clipping():
    raw = np.nan_to_num(raw_of(6))
    before, after = (np.clip(raw, *np.quantile(raw, q, axis=0)) for q in ([0.1, 0.9], [0.15, 0.85]))
    assert warnings(before.astype("f4"), after.astype("f4")) == []


def test_categories_in_the_order_of_another_fit_are_no_swapped_columns():
    codes = np.random.default_rng(2).integers(0, 5, N)
    before = np.eye(5, dtype=np.float32)[codes]
    assert warnings(before, before[:, [1, 0, 2, 4, 3]]) == []


def test_features_that_are_swapped_upstream_are_no_refit():
    raw = raw_of(6)
    fitted = constants(raw, 0)
    sides = [
        {"raw": values, "scaled": scaled(values, fitted)}
        for values in (raw, raw[:, [1, 0, 2, 3, 4, 5]])
    ]
    declared = graph(features=("raw",), fitted=("scaled",), vocabularies=())
    diff = FeatureDiff(floor_of(feature_pairs(sides[0], sides[0])), declared, declared)
    for pair in feature_pairs(*sides):
        diff.update(pair)
    assert diff.finish().refits == ()


def whole(seed, columns):
    values = np.rint(np.random.default_rng(seed).normal(0, 3, (N, columns))).astype(np.float32)
    values[np.random.default_rng(seed + 1).random(values.shape) < 0.04] = np.nan
    return values


def divided(raw, by):
    return (np.nan_to_num(raw) * np.float32(1 / by)).astype(np.float32)


@pytest.mark.parametrize("declared", [False, True])
def test_tenths_that_were_ninths_are_no_lost_digits(declared):
    raw = whole(5, 1)
    assert warnings(divided(raw, 9), divided(raw, 10), raw if declared else None) == []


def test_few_values_made_float16_are_lost_digits_and_no_other_scale():
    raw = np.random.default_rng(4).choice([1, 2, 3, 4, 5], (3000, 1)).astype(np.float32)
    before = ((raw - 3) / np.float32(1.17)).astype(np.float32)
    found = warnings(before, before.astype(np.float16).astype(np.float32), raw)
    assert [kind for kind, _, _ in found] == ["lower_precision"]


def test_tenths_beside_a_column_that_lost_its_digits_are_told_with_it():
    raw = np.concatenate([whole(5, 1), raw_of(6)[:, :1]], axis=1)
    before = divided(raw, 9)
    after = np.stack(
        [divided(raw[:, 0], 10), np.trunc(before[:, 1].astype(np.float64) * 10) / 10], axis=1
    )
    found = warnings(before, after.astype(np.float32), raw)
    assert [(kind, where) for kind, where, _ in found] == [("lower_precision", "scaled")]
    assert "cut off to 1 decimals, in 2 columns" in found[0][2]


@pytest.mark.parametrize("seed", range(6))
def test_a_fill_of_0_is_no_forgotten_one_where_it_was_0_before(seed):
    raw = whole(seed, 6)
    for before, after in ((9, 11), (10, 12), (11, 13)):
        assert warnings(divided(raw, before), divided(raw, after), raw) == []
