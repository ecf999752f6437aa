import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.diff.distance import (
    HALF_TOLERANCE,
    base_tolerance,
    compare_rows,
    same_bits,
)

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


def test_words_against_numbers_always_mismatch():
    assert compare_rows(np.array([["1"]], dtype=object), np.array([[1.0]]), 1.0, 1.0).mismatch.all()


@pytest.mark.parametrize(
    ("baseline", "candidate", "expected"),
    [("f2", "f2", HALF_TOLERANCE), ("f4", "f2", 1e-6), ("f8", "f4", 1e-6), ("i8", "i4", 0.0)],
)
def test_base_tolerance_by_dtype(baseline, candidate, expected):
    assert base_tolerance(np.dtype(baseline), np.dtype(candidate)) == expected
