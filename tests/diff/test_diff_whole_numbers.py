"""Whole numbers of millions that moved by one are other numbers."""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import feature_pairs, graph

from harness.core.jsonable import jsonable
from harness.diff.features import FeatureDiff
from harness.diff.floor import floor_from_json
from harness.diff.floor_builder import FloorBuilder
from harness.diff.reports import ParityVerdict
from harness.diff.whole import apart

N = 300
FRACTIONS = 2.0**23
ONE = graph(features=("f",), fitted=(), vocabularies=())
RNG = np.random.default_rng(0)


def mismatched(before, after, exact=(), declared=ONE):
    builder = FloorBuilder(exact=exact, coarse=declared.coarse)
    for pair in feature_pairs({"f": before}, {"f": before}):
        builder.update(pair)
    floor = builder.finish()
    floor = floor_from_json(jsonable(floor))
    diff = FeatureDiff(floor, declared, declared)
    for pair in feature_pairs({"f": before}, {"f": after}, (130,)):
        diff.update(pair)
    return diff.finish()


@pytest.mark.parametrize("shape", [(), (1,), (2,), (70,)])
@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (4e6, 1e7, np.float64),
        (9e6, 16e6, np.float64),
        (4e6, 1e7, np.float32),
        (2e6, 8e6, np.float32),
    ],
)
def test_one_more_is_another_number_in_every_row(low, high, kind, shape):
    before = RNG.integers(int(low), int(high), (N, *shape)).astype(kind)
    report = mismatched(before, before + kind(1))
    assert report.mismatched_requests == N
    assert {r.verdict for r in report.features} == {ParityVerdict.DIFFERS}
    if high < FRACTIONS and shape != (70,):
        assert {r.text for r in report.features} == {"candidate = baseline + 1"}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_in_the_graphs_one_more_is_another_number(kind):
    before = RNG.integers(4_000_000, 10_000_000, (N, 2)).astype(kind)
    assert apart(before, before + kind(1), rows=N, tolerance=0.0, fine=True).rows.all()


def test_rounding_of_float32_that_has_fractions_stays_equal():
    before = RNG.uniform(4e6, 15e6, N).astype(np.float32)
    after = np.nextafter(before, np.float32(np.inf))
    assert mismatched(before, after).mismatched_requests == 0


def test_rounding_of_float32_without_room_for_fractions_stays_equal():
    before = RNG.integers(9_000_000, 16_000_000, N).astype(np.float32)
    assert mismatched(before, before + np.float32(1)).mismatched_requests == 0


def test_a_candidate_that_is_not_whole_is_held_to_the_tolerance():
    before = RNG.integers(2_000_000, 4_000_000, N).astype(np.float32)
    assert mismatched(before, before + np.float32(0.25)).mismatched_requests == 0


@pytest.mark.parametrize(
    "before",
    [
        RNG.choice(np.arange(1_100_000, 1_600_000, 37_001), N),
        RNG.integers(1_100_000, 1_600_000, 15),
        np.where(np.arange(N) == 5, 4_000_000.5, RNG.integers(3_000_000, 8_000_000, N)),
    ],
    ids=["few", "short", "one_fraction"],
)
@pytest.mark.parametrize("exact", [(), ("f",)])
def test_few_numbers_and_one_that_is_not_whole_are_other_numbers_too(before, exact):
    before = before.astype(np.float32)
    report = mismatched(before, before + np.float32(1), exact)
    assert report.mismatched_requests == (before == np.rint(before)).sum()
    assert report.features[0].text == "candidate = baseline + 1"


def test_what_is_only_moved_is_compared_by_whole_numbers_whatever_its_size():
    before = RNG.integers(9_000_000, 16_000_000, N).astype(np.float32)
    assert mismatched(before, before + np.float32(1), ["f"]).mismatched_requests == N
    before = RNG.integers(2**49, 2**52, N).astype(np.float64)
    assert mismatched(before, before + 1, ["f"]).mismatched_requests == N


def test_half_of_the_values_whole_says_nothing_of_sums():
    before = (RNG.integers(8_400_000, 16_000_000, N) / 2).astype(np.float32)
    after = before + np.where(before == np.rint(before), 1, 0).astype(np.float32)
    assert mismatched(before, after).mismatched_requests == 0


def test_sums_of_float32_beyond_2_to_23_are_not_counted_in_float64_either():
    x = RNG.uniform(1.1e6, 2e6, (3000, 8)).astype(np.float32)
    sums = [np.zeros(3000, np.float32), np.zeros(3000, np.float32)]
    for i in range(8):
        sums = [sums[0] + x[:, i], sums[1] + x[:, 7 - i]]
    before, after = (s.astype(np.float64) for s in sums)
    assert (before != after).any()
    coarse = replace(ONE, coarse=frozenset({"f"}))
    assert mismatched(before, after, (), coarse).mismatched_requests == 0
    assert not apart(before, after, rows=3000, tolerance=0.0).rows.any()


def test_what_float32_does_not_show_is_said():
    before = RNG.integers(9_000_000, 16_000_000, N).astype(np.float32)
    report = mismatched(before, before + np.float32(1))
    text = "candidate = baseline; values moved by up to 1, within the tolerance"
    assert report.features[0].text == text
