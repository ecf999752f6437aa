"""One row in a hundred is enough for codes that stand for each other and for another column's values."""

import numpy as np
import pytest
from test_diff_other_rows import texts

from harness.diff.pairs import RelationKind as Kind
from harness.diff.relations import name_relation

N = 1500
RNG = np.random.default_rng(12)
CODES = RNG.integers(0, 5, N)
WORDS = np.array(["AA", "UA", "DL", "WN", "B6"], object)
TOUCHED = np.arange(N) % 100 == 7


def few(before, after, rows=TOUCHED):
    return np.where(rows, after, before)


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 0], [1, 2, 0, 3, 4], [3, 4, 1, 0, 2]])
def test_codes_that_stand_for_each_other_in_few_rows_are_named(order):
    after = np.array(order)[CODES]
    found = name_relation(
        CODES.astype(float), few(CODES, after, np.arange(N) % 50 == 7).astype(float)
    )
    assert found.kind is Kind.PERMUTED
    moved = [f"{i} → {c}" for i, c in enumerate(order) if i != c]
    assert found.text == "codes permuted: " + ", ".join(moved[:4]) + (
        " and 1 more" if len(moved) > 4 else ""
    )


@pytest.mark.parametrize("share", [0.02, 0.2, 0.4])
@pytest.mark.parametrize("codes", [2, 3, 5])
def test_two_codes_that_are_taken_for_each_other_in_some_rows_are_no_other_order(codes, share):
    weights = [0.7, *[0.3 / (codes - 1)] * (codes - 1)]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        before = rng.choice(codes, N, p=weights)
        after = np.where((rng.random(N) < share) & (before < 2), 1 - before, before)
        assert name_relation(before.astype(float), after.astype(float)).kind is not Kind.PERMUTED
        words = np.array([f"w{i}" for i in range(codes)], object)
        assert name_relation(words[before], words[after]).kind is not Kind.PERMUTED


def test_words_that_stand_for_each_other_in_few_rows_are_named():
    after = WORDS[(CODES + 1) % 5]
    assert name_relation(WORDS[CODES], few(WORDS[CODES], after)).kind is Kind.PERMUTED


@pytest.mark.parametrize("codes", [2, 3, 5, 12])
@pytest.mark.parametrize("skew", [1.0, 0.3])
def test_noise_in_few_rows_is_no_other_order(codes, skew):
    rng = np.random.default_rng([codes, int(10 * skew)])
    weights = skew ** np.arange(codes)
    for _ in range(30):
        before, drawn = (rng.choice(codes, N, p=weights / weights.sum()) for _ in range(2))
        rows = (rng.random(N) < rng.choice([0.004, 0.01, 0.05])) & (before != drawn)
        after = few(before, drawn, rows)
        assert name_relation(before.astype(float), after.astype(float)).kind is not Kind.PERMUTED
        words = np.array([f"w{i}" for i in range(codes)], object)
        assert name_relation(words[before], words[after]).kind is not Kind.PERMUTED


def test_two_codes_that_became_one_in_few_rows_are_no_other_order():
    rows = np.arange(N) % 20 == 7
    after = few(CODES, np.array([1, 2, 3, 4, 4])[CODES], rows)
    assert name_relation(CODES.astype(float), after.astype(float)).kind is not Kind.PERMUTED


def columns(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "temp": rng.normal(15, 8, rows).round(1),
        "prev": rng.normal(3, 20, rows).round(1),
        "flag": rng.integers(0, 2, rows).astype(float),
        "code": rng.integers(0, 5, rows).astype(float),
        "word": WORDS[rng.integers(0, 5, rows)],
    }


@pytest.mark.parametrize("rows", [400, 1500])
@pytest.mark.parametrize("of", ["prev", "code"])
def test_another_column_in_few_rows_is_named(rows, of):
    given = columns(rows)
    touched = np.arange(rows) % 100 == 7
    after = given | {"temp": few(given["temp"], given[of], touched)}
    told = texts(given, after)["temp"]
    named = told == f"candidate = the baseline's {of} (columns swapped?)"
    assert named == (of == "prev" or rows == 1500)


@pytest.mark.parametrize("seed", range(20))
def test_noise_in_few_rows_is_no_other_column(seed):
    given, others = columns(400, seed), columns(400, seed + 100)
    touched = np.random.default_rng(seed).random(400) < [0.01, 0.05][seed % 2]
    after = {name: few(values, others[name], touched) for name, values in given.items()}
    assert not [text for text in texts(given, after).values() if "columns swapped" in text]
