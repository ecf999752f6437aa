"""Lost digits scatter; constants that were fitted anew move near values alike."""

import numpy as np
import pytest

from harness.diff.lost_digits import moved_in_line, scattered
from harness.diff.pairs import RelationKind
from harness.diff.relations import name_relation

RNG = np.random.default_rng(0)
VALUES = {
    "normal": RNG.normal(50, 10, 800).astype(np.float32),
    "around zero": RNG.normal(size=800).astype(np.float32),
    "decades": np.exp(RNG.normal(0, 2, 800)).astype(np.float32),
}


def refitted(x):
    """4 % of the rows hold a fill, and that is another one, too."""
    after = (x * np.float32(1.0007)).astype(np.float32)
    before = x.copy()
    before[:32], after[:32] = np.median(x), np.median(x) * np.float32(1.0013)
    return before, after


@pytest.mark.parametrize("x", VALUES.values(), ids=VALUES)
def test_a_scaler_fitted_anew_is_no_lower_precision(x):
    found = name_relation(*refitted(x))
    assert found.kind not in (RelationKind.PRECISION, RelationKind.ROUNDING)


@pytest.mark.parametrize("x", VALUES.values(), ids=VALUES)
def test_arithmetic_in_float16_is_lower_precision(x):
    half = (x.astype(np.float16) * np.float16(1.7) / np.float16(1.7)).astype(np.float32)
    found = name_relation(x, half)
    assert found.kind is RelationKind.PRECISION
    assert found.text.endswith("three digits (lower precision?)")


@pytest.mark.parametrize("x", VALUES.values(), ids=VALUES)
def test_outliers_do_not_make_a_line_of_differences_scattered(x):
    after = x.astype(np.float64) * 1.0007
    after[::25] = 0.0
    assert not scattered(x.astype(np.float64), after)


@pytest.mark.parametrize("cut", [np.round, np.trunc])
def test_fewer_decimals_are_scattered(cut):
    x = VALUES["normal"].astype(np.float64)
    assert scattered(x, cut(x * 100) / 100)


def test_two_values_tell_nothing_of_digits():
    assert not scattered(np.array([0.0, 1.0] * 50), np.array([0.0, 1.001] * 50))


@pytest.mark.parametrize("decimals", [1, 2, 4])
def test_decimals_that_are_cut_off_are_named(decimals):
    x = RNG.normal(3, 1, 400).astype(np.float32)
    after = (np.trunc(x.astype(np.float64) * 10**decimals) / 10**decimals).astype(np.float32)
    assert name_relation(x, after).text == f"candidate = baseline cut off to {decimals} decimals"


def test_digits_that_bfloat16_cuts_off_are_named():
    x = RNG.normal(3, 1, 400).astype(np.float32)
    after = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert name_relation(x, after).text == "candidate = baseline cut off to bfloat16"


def test_another_divisor_of_whole_numbers_is_a_line():
    x = np.rint(RNG.normal(0, 3, 800)).astype(np.float32)
    sides = [(x * np.float32(1 / by)).astype(np.float64) for by in (9, 10)]
    assert name_relation(*sides).kind is RelationKind.PRECISION
    assert moved_in_line(*sides)


def test_rare_values_off_the_line_that_rounding_explains_are_lost_digits():
    x = np.random.default_rng(0).poisson(1, 3000).clip(0, 4).astype(np.float64)
    x[:20] = 9
    before = x / 9
    after = np.round(before, 1)
    said = name_relation(before, after).text
    assert said == "candidate = baseline rounded to 1 decimals"
    assert moved_in_line(before, after)
    assert not moved_in_line(before, after, said=said)
    after[:20] = 0.9
    assert moved_in_line(before, after, said=said)
    assert moved_in_line(before[20:], after[20:], said=said)


def test_two_values_made_float16_are_lost_digits_and_nearly_so_they_are_not():
    before = np.random.default_rng(0).choice([0, 1, 2], 900).astype(np.float32) / np.float32(1.17)
    half = before.astype(np.float16).astype(np.float32)
    assert name_relation(before, half).text == "candidate = baseline rounded to float16"
    near = half * np.float32(1.000001)
    assert name_relation(before, near).kind is not RelationKind.PRECISION


@pytest.mark.parametrize("decimals", [0, 1, 4])
@pytest.mark.parametrize("x", [VALUES["normal"], np.rint(VALUES["normal"]) / 7], ids=["any", "7th"])
def test_digits_that_are_lost_are_no_line(x, decimals):
    assert not moved_in_line(x.astype(np.float64), np.round(x.astype(np.float64), decimals))


def test_what_is_all_one_value_is_no_line():
    assert not moved_in_line(np.arange(90.0), np.full(90, 0.5))
