from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.core.tensors import same_bits
from harness.diff.distance import (
    HALF_TOLERANCE,
    SMALL_SHARE,
    base_tolerance,
    compare_rows,
)
from harness.diff.scales import robust_scale, typical_scale

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
matrices = st.sampled_from(DTYPES).flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6))
)
words = hnp.arrays(object, st.tuples(st.integers(0, 5), st.just(2)), elements=st.text(max_size=4))
floats = st.sampled_from(["f2", "f4", "f8"]).flatmap(
    lambda d: st.tuples(*[hnp.arrays(d, (5, 2)) for _ in "ab"])
)


@given(st.one_of(matrices, words), st.floats(0, 1), st.floats(0, 1e6))
def test_equal_tensors_never_mismatch(values, tolerance, scale):
    difference = compare_rows(values, values.copy(), tolerance, scale)
    assert not difference.mismatch.any()
    assert difference.absolute.max(initial=0.0) == 0.0


@given(floats, st.floats(0, 1), st.floats(0, 1e6))
def test_the_measure_is_symmetric(pair, tolerance, scale):
    there, back = (compare_rows(*p, tolerance, scale) for p in (pair, pair[::-1]))
    np.testing.assert_array_equal(there.mismatch, back.mismatch)
    np.testing.assert_array_equal(there.relative, back.relative)


@given(floats)
def test_nan_and_inf_on_one_side_always_mismatch(pair):
    a, b = pair
    one_sided = (np.isnan(a) != np.isnan(b)) | (np.isinf(a) != np.isinf(b))
    assert compare_rows(a, b, 1e9, 1e9).mismatch[one_sided].all()


@given(st.one_of(matrices, words))
def test_same_bits_holds_for_a_copy(values):
    assert same_bits(values, values.copy())


def test_other_sign_of_infinity_mismatches():
    assert compare_rows(np.array([[np.inf]]), np.array([[-np.inf]]), 1.0, 1.0).mismatch.all()


def test_tolerance_is_relative_to_the_scale():
    a, b = np.array([[0.0], [0.0]]), np.array([[0.9e-4], [1.1e-4]])
    assert compare_rows(a, b, 1e-6, 100.0).mismatch.ravel().tolist() == [False, True]


def test_a_runaway_candidate_does_not_excuse_itself():
    assert compare_rows(np.array([[1.0]]), np.array([[1e30]]), 0.5, 1.0).mismatch.all()


def test_a_row_larger_than_the_scale_is_measured_by_itself():
    a = np.array([[1e9]], dtype=np.float32)
    b = np.nextafter(a, np.float32(np.inf), dtype=np.float32)
    assert not compare_rows(a, b, 1e-6, 1.0).mismatch.any()


def test_neighbouring_large_integers_differ():
    a = np.array([[2**62]])
    difference = compare_rows(a, a + 1, 1.0, 1.0)
    assert difference.mismatch.all()
    assert difference.absolute.item() == 1.0


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_large_integers_are_subtracted_as_integers(dtype):
    a = np.array([[2**62]], dtype)
    assert compare_rows(a, a + np.array(301, dtype), 1.0, 1.0).absolute.item() == 301


def test_words_against_numbers_always_mismatch():
    assert compare_rows(np.array([["1"]], dtype=object), np.array([[1.0]]), 1.0, 1.0).mismatch.all()


@pytest.mark.parametrize(
    ("baseline", "candidate", "expected"),
    [("f2", "f2", HALF_TOLERANCE), ("f4", "f2", 1e-6), ("f8", "f4", 1e-6), ("i8", "i4", 0.0)],
)
def test_base_tolerance_by_dtype(baseline, candidate, expected):
    assert base_tolerance(np.dtype(baseline), np.dtype(candidate)) == expected


MILES = np.random.default_rng(5).uniform(80, 2500, 3000).astype(np.float32)


@pytest.mark.parametrize("outliers", [[1e10], [1e10, -3e38], [np.inf, 1e9, 1e20]])
def test_a_few_outliers_do_not_move_the_scale_out_of_the_bulk(outliers):
    values = MILES.copy()
    values[: len(outliers)] = outliers
    assert 2400 < robust_scale(values) < 2500


def test_one_outlier_does_not_excuse_the_other_rows():
    before = MILES.copy()
    before[0] = 1e10
    after = before * np.float32(1.609344)
    found = compare_rows(before[:, None], after[:, None], 1e-6, robust_scale(before))
    assert found.mismatch.all()


def test_a_stand_in_for_missing_values_is_not_the_scale_of_the_others():
    values = np.where(np.arange(3000) % 10 > 0, np.float32(-(2.0**63)), MILES)
    assert robust_scale(values) < 2500


@pytest.mark.parametrize("every", [3, 20])
def test_many_far_outliers_are_left_out(every):
    values = np.where(np.arange(3000) % every == 0, MILES * np.float32(1e12), MILES)
    assert robust_scale(values) <= 2500


def test_outliers_without_a_jump_end_at_a_thousand_times_the_high_values():
    wild = np.where(np.arange(3000) % 20 == 0, np.geomspace(1e3, 1e15, 3000), MILES)
    assert 1e4 < robust_scale(wild) <= 1000 * 2500


@pytest.mark.parametrize("spread", [0.6, 2.0])
def test_a_column_of_a_softmax_keeps_its_large_values(spread):
    rng = np.random.default_rng(1)
    scores = rng.normal(0, spread * np.sqrt(60), (4096, 10))
    part = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = part / part.sum(axis=1, keepdims=True)
    assert min(robust_scale(column) for column in probabilities.T) > 0.5


def test_the_small_probabilities_of_a_class_are_measured_against_its_large_ones():
    logits = np.random.default_rng(6).normal(-6, 4, 4000)
    assert robust_scale(1 / (1 + np.exp(-logits))) > 0.5


@given(hnp.arrays("f8", st.integers(0, 50), elements=st.floats(-1e6, 1e6)), st.integers(-60, 60))
def test_the_scale_follows_the_unit_and_not_the_order(values, power):
    values = np.where(np.abs(values) < 1e-6, 0.0, values)
    assert robust_scale(values[::-1] * 2.0**power) == robust_scale(values) * 2.0**power


@given(hnp.arrays("f8", st.integers(1, 50)))
def test_the_scale_is_finite_and_never_beyond_the_largest_value(values):
    size = np.abs(values[np.isfinite(values)])
    assert 0.0 <= robust_scale(values) <= size.max(initial=0.0)


def test_words_and_zeros_have_no_scale():
    assert robust_scale(np.array(["a"], dtype=object)) == 0.0
    assert robust_scale(np.zeros(4)) == 0.0


def heavy(sigma, seed=9, rows=4096):
    return np.exp(np.random.default_rng(seed).normal(0, sigma, (rows, 1))).astype(np.float32)


def compared(before, after):
    return compare_rows(before, after, 1e-6, robust_scale(before), typical=typical_scale(before))


@given(st.floats(1, 8), st.floats(0.02, 0.5), st.integers(0, 99), st.sampled_from([0.0, 0.5, -1.0]))
def test_small_values_of_a_heavy_tail_that_become_others_do_not_pass(sigma, share, seed, factor):
    before = heavy(sigma, seed)
    below = before < np.quantile(before, share)
    found = compared(before, np.where(below, before * np.float32(factor), before))
    np.testing.assert_array_equal(found.mismatch | found.small, below)


@given(st.floats(1, 8), st.integers(0, 99))
def test_a_half_of_a_heavy_tail_that_becomes_zero_differs(sigma, seed):
    before = heavy(sigma, seed)
    below = before < np.median(before)
    found = compared(before, np.where(below, np.float32(0), before))
    assert found.mismatch.sum() > 0.5 * below.sum()
    assert not (found.mismatch & ~below).any()


@given(st.floats(0.5, 6), st.integers(0, 99))
def test_sums_of_heavy_tails_in_another_order_stay_equal(sigma, seed):
    rng = np.random.default_rng(seed)
    parts = rng.choice([-1.0, 1.0], (2048, 12)) * np.exp(rng.normal(0, sigma, (2048, 12)))
    parts = parts.astype(np.float32)
    before, after = np.zeros((2048, 1), np.float32), np.zeros((2048, 1), np.float32)
    for i in range(12):
        before[:, 0] += parts[:, i]
        after[:, 0] += parts[:, 11 - i]
    found = compared(before, after)
    assert not found.mismatch.any()
    assert found.small.mean() < SMALL_SHARE


@pytest.mark.parametrize("spread", [5.0, 15.0, 40.0])
def test_a_softmax_of_shifted_scores_has_no_small_differences(spread):
    rng = np.random.default_rng(1)
    scores = rng.normal(0, spread, (2048, 10)).astype(np.float32)
    first, second = (
        np.exp(scores - shift)
        for shift in (
            scores.max(1, keepdims=True),
            scores[:, :1].clip(scores.max(1, keepdims=True) - 3),
        )
    )
    before, after = (e / e.sum(axis=1, keepdims=True) for e in (first, second))
    for b, a in zip(before.T[:, :, None], after.T[:, :, None], strict=True):
        assert not compared(b, a).small.any()


def test_noise_of_the_baseline_explains_a_zero():
    before = heavy(6.0)
    after = np.where(before < 0.01, np.float32(0), before)
    scale = robust_scale(before)
    found = compare_rows(
        before, after, 1e-6, scale, typical=typical_scale(before), noise=0.02 / scale
    )
    assert not (found.mismatch | found.small).any()


def test_the_glossary_names_the_least_tolerance_of_each_float_type():
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    floor = next(line for line in readme.splitlines() if line.startswith("- **floor**"))
    assert f"{HALF_TOLERANCE:.3g}" == "0.00195"
    assert "at least 1e-6 (1.95e-3, two roundings of float16, for what is float16 on both" in floor
