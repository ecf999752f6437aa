"""Whole numbers of millions that moved by one are other numbers."""

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.core.jsonable import jsonable
from harness.diff.features import FeatureDiff
from harness.diff.floor import floor_from_json
from harness.diff.reports import ParityVerdict
from harness.diff.whole import apart

N = 300
FRACTIONS = 2.0**23
ONE = graph(features=("f",), fitted=(), vocabularies=())
RNG = np.random.default_rng(0)


def mismatched(before, after):
    floor = floor_of(feature_pairs({"f": before}, {"f": before}))
    floor = floor_from_json(jsonable(floor))
    diff = FeatureDiff(floor, ONE, ONE)
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
