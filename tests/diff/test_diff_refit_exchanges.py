"""Constants that changed places between columns are told, and no fit is told as such a change."""

import numpy as np
import pytest
from test_diff_refit_doubts import constants, raw_of, scaled, warnings

from harness.diff.refit_exchanges import Fit, exchanged

BOTH = (("offset", False), ("scale", True))
ROLES = (BOTH, BOTH[:1], BOTH[1:])
RAW = raw_of(6) * np.float32([1, 1, 60, 1, 1, 1]) + np.float32([0, 0, 900, 0, 0, 40])


def exchanged_constants(order, seed, which=(0, 1, 2)):
    """Warnings where columns have each other's constants, of the same fit (seed 0) or of another."""
    fitted = constants(RAW, seed)
    for i in which:
        fitted[i] = fitted[i][order]
    return warnings(scaled(RAW, constants(RAW, 0)), scaled(RAW, fitted), RAW)


@pytest.mark.parametrize("seed", [0, 5])
def test_columns_with_each_others_constants_are_named(seed):
    (told, fill) = exchanged_constants([0, 1, 5, 3, 4, 2], seed)
    assert told[:2] == ("suspicious_refit", "r2, r5")
    assert "r2 has those of r5 and r5 has those of r2" in told[2]
    assert " offset and scale " in told[2]
    assert fill[1] == told[1]
    assert " fill " in fill[2]


def test_three_columns_in_a_ring_are_named_and_one_kind_of_constant_alone():
    order = [0, 1, 5, 2, 4, 3]
    ring = exchanged_constants(order, 5, (1, 2))
    assert "r2, r5, r3 offset and scale" in ring[0][2]
    alone = [exchanged_constants([0, 1, 5, 3, 4, 2], 5, (i,)) for i in range(3)]
    assert [[role in told[2] for told in found] for role, found in zip(
        (" fill ", " offset ", " scale "), alone, strict=True
    )] == [[True]] * 3  # fmt: skip


def fits(before, after, *, values=100):
    """Of columns with a spread of their old scale, from arrays of shape (k, 2): offset and scale."""
    return [
        Fit(
            column=f"s[{i}]", feature=f"r{i}", spread=abs(old[1]), values=values,
            constants={"offset": (old[0], new[0]), "scale": (old[1], new[1])},
        )
        for i, (old, new) in enumerate(zip(before, after, strict=True))
    ]  # fmt: skip


def rings(before, after, *, values=100):
    return [exchanged(fits(before, after, values=values), roles) for roles in ROLES]


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("like", [0.02, 0.5, 3.0])
def test_no_clean_refit_is_an_exchange(noise, like):
    rng = np.random.default_rng([int(100 * noise), int(100 * like)])
    for _ in range(300):
        before = np.stack([rng.normal(5, like, 20), np.exp(rng.normal(0, like, 20))], 1)
        moved = rng.normal(0, noise, (20, 2))
        after = np.stack(
            [before[:, 0] + moved[:, 0] * before[:, 1], before[:, 1] * np.exp(moved[:, 1])], 1
        )
        assert rings(before, after) == [[], [], []]


DRAWN = {
    "flags": lambda rng, n, i: rng.random(n) < i / 30,
    "counts": lambda rng, n, i: rng.poisson(i + 1, n) * 3,
    "heavy": lambda rng, n, i: rng.lognormal(i / 5, 1, n),
    "alike": lambda rng, n, i: rng.poisson(1000 + i, n),
}
FITTED = {
    "mean": lambda v: (v.mean(), v.std()),
    "median": lambda v: (np.median(v), np.subtract(*np.percentile(v, [75, 25]))),
    "least": lambda v: (v.min(), np.ptp(v)),
}


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("fitted", FITTED)
def test_constants_fitted_to_few_rows_are_no_exchange(drawn, fitted):
    rng = np.random.default_rng([len(drawn), len(fitted)])
    for n in rng.integers(40, 400, 60):
        sides = np.array(
            [
                [FITTED[fitted](DRAWN[drawn](rng, n, i).astype(float)) for i in range(30)]
                for _ in range(2)
            ]
        )
        sides[..., 1][sides[..., 1] == 0] = 1.0
        values = len(np.unique(DRAWN[drawn](rng, n, 15)))
        assert rings(*sides, values=values) == [[], [], []]


def test_refits_to_picked_values_that_meet_are_no_exchange():
    before = np.array([[12.0, 6.0], [13.0, 6.0], [12.5, 6.25]])
    assert rings(before, before[[1, 0, 2]]) == [[], [], []]
    assert rings(before, before) == [[], [], []]
    far = np.array([[12.0, 6.0], [21.0, 6.0], [12.5, 6.25]])
    assert [bool(rings(far, far[[1, 0, 2]], values=n)[1]) for n in (100, 3)] == [True, False]


def test_columns_with_nearly_the_same_constants_are_told_only_where_they_are_exact():
    before = np.array([[12.12345, 6.0], [13.0, 6.98765], [40.0, 7.0]])
    assert rings(before, before[[1, 0, 2]])[0] == [[0, 1]]
    assert rings(before, before[[1, 0, 2]] * 1.001) == [[], [], []]
    assert rings(np.repeat(before[:1], 3, 0), np.repeat(before[:1] * 1.05, 3, 0)) == [[], [], []]


def test_what_a_third_column_had_too_shows_nothing():
    # Columns of one range: one gained its first missing value, filled with -999, and another lost its only one.
    plain, filled = [0.0, 100.0], [-999.0, 1099.0]
    before = np.array([plain, filled, plain, plain])
    after = before[[1, 0, 2, 3]]
    assert rings(before, after) == [[], [], []]
    rough = before + np.array([[0.3, -0.7], [0.0, 0.2], [0.6, 0.4], [0.1, -0.3]])
    assert rings(rough, rough[[1, 0, 2, 3]] * 1.001) == [[], [], []]
    assert rings(before[:2], after[:2])[0] != []


@pytest.mark.parametrize("which", [[2], [2, 3], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("seed", [0, 5])
def test_columns_of_the_other_sign_are_no_exchange(which, seed):
    fitted = constants(RAW, seed)
    signs = np.ones(RAW.shape[1])
    signs[which] = -1.0
    fill, offset, scale = fitted
    told = warnings(scaled(RAW, constants(RAW, 0)), scaled(RAW, [fill, offset, scale * signs]), RAW)
    assert told
    assert all("the other sign" in text for _, _, text in told)
