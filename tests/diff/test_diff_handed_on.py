"""What both versions only hand on is compared bit by bit, whatever its size."""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import feature_pairs, graph

from harness.core.jsonable import jsonable
from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features
from harness.diff.floor import floor_from_json
from harness.diff.floor_builder import FloorBuilder
from harness.diff.whole import apart

N = 300
RNG = np.random.default_rng(0)
PLAIN = graph(features=("f",), fitted=(), vocabularies=())
HANDED = replace(PLAIN, exact=frozenset({"f"}), handed_on=frozenset({"f"}))
IDS = 2 * RNG.integers(10_000_000, 15_000_000, N)


def compared(before, after, graphs, *, resumed=False):
    builder = FloorBuilder(exact=graphs[0].exact)
    for pair in feature_pairs({"f": before}, {"f": before}):
        builder.update(pair)
    floor = floor_from_json(jsonable(builder.finish()))
    diff = FeatureDiff(floor, *graphs)
    for i, pair in enumerate(feature_pairs({"f": before}, {"f": after}, (130, 200))):
        diff.update(pair)
        if resumed and i == 0:
            diff = FeatureDiff.from_state(diff.state(), floor, *graphs)
    return diff.finish()


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("more", [2, 16])
def test_large_numbers_that_both_hand_on_are_other_numbers(kind, more, resumed):
    before = IDS.astype(kind)
    report = compared(before, before + kind(more), (HANDED, HANDED), resumed=resumed)
    assert report.mismatched_requests == N
    assert report.features[0].text == f"candidate = baseline + {more}"
    assert apart(before, before + kind(more), rows=N, tolerance=0.0, moved=True).rows.all()


def test_numbers_beyond_2_to_53_are_other_numbers_too():
    before = 4.0 * IDS + 2.0**54
    report = compared(before, before + 4, (HANDED, HANDED))
    assert report.mismatched_requests == N


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_fractions_that_both_hand_on_have_no_tolerance(kind):
    before = RNG.normal(50, 10, N).astype(kind)
    after = before.copy()
    after[7] = np.nextafter(after[7], kind(np.inf))
    assert compared(before, after, (HANDED, HANDED)).mismatched_requests == 1
    assert compared(before, after, (PLAIN, PLAIN)).mismatched_requests == 0


@pytest.mark.parametrize(("more", "told"), [(4, 0), (16, N)])
def test_a_candidate_that_computes_may_round_a_few_times(more, told):
    before = IDS.astype(np.float32)
    report = compared(before, before + np.float32(more), (HANDED, PLAIN))
    assert report.mismatched_requests == told


def test_a_cast_in_one_version_keeps_the_tolerance_and_is_said():
    before = RNG.normal(50, 10, N)
    report = compared(before, before.astype(np.float32), (HANDED, HANDED))
    assert report.mismatched_requests == 0
    (found,) = findings_from_features(report, 0.0)
    assert (found.kind, found.what) == (
        "feature_retyped",
        "f: float64 became float32; compared with float32's tolerance",
    )


def test_identifiers_that_a_cast_changes_are_told():
    before = IDS + 1.0
    report = compared(before, before.astype(np.float32), (HANDED, HANDED))
    assert report.mismatched_requests == (before.astype(np.float32) != before).sum() > N / 4
    assert report.features[0].text == "candidate = baseline rounded to float32"


@pytest.mark.parametrize("resumed", [False, True])
def test_noise_of_the_baseline_is_no_difference_of_what_is_handed_on(resumed):
    before = RNG.normal(50, 10, N)
    builder = FloorBuilder(exact=("f",))
    for pair in feature_pairs({"f": before}, {"f": before + 1e-3}):
        builder.update(pair)
    diff = FeatureDiff(builder.finish(), HANDED, HANDED)
    if resumed:
        diff.update(next(iter(feature_pairs({"f": before[:9]}, {"f": before[:9]}))))
        diff = FeatureDiff.from_state(diff.state(), builder.finish(), HANDED, HANDED)
    for pair in feature_pairs({"f": before}, {"f": before + 2e-3}):
        diff.update(pair)
    assert diff.finish().mismatched_requests == 0


def test_one_more_is_another_number_though_float32_may_have_rounded_it():
    before = IDS.astype(np.float64)
    assert compared(before, before + 2, (PLAIN, PLAIN)).mismatched_requests == N


def test_whole_numbers_of_float64_arithmetic_are_counted():
    before = IDS.astype(np.float64)
    report = compared(before, before + 16, (PLAIN, PLAIN))
    assert report.mismatched_requests == N
    assert report.features[0].text == "candidate = baseline + 16"


def test_one_line_says_which_numbers_moved_unseen():
    before = IDS.astype(np.float32)
    report = compared(before, before + np.float32(16), (PLAIN, PLAIN))
    assert report.mismatched_requests == 0
    (found,) = findings_from_features(report, 0.0)
    assert found.kind == "whole_units"
    assert found.what.startswith("f: values moved by up to 16 within the tolerance")


def test_nothing_is_said_of_large_numbers_that_did_not_move():
    before = IDS.astype(np.float32)
    assert not findings_from_features(compared(before, before, (PLAIN, PLAIN)), 0.0)
