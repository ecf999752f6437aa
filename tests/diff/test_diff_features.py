from dataclasses import replace

import numpy as np
import pytest
from diff_streams import (
    CARRIERS,
    FITTED,
    RAW,
    circle,
    copied,
    feature_pairs,
    flight_features,
    floor_of,
    graph,
)

from harness.core.policies import Mapping
from harness.diff.feature_match import match_features
from harness.diff.features import FeatureDiff
from harness.diff.reports import ParityVerdict

N = 3000
FLIGHTS = flight_features(N, np.random.default_rng(2013))
FLOOR = floor_of(feature_pairs(FLIGHTS, FLIGHTS))


def diffed(candidate, *, expected=(), candidate_graph=None, mapping=None):
    diff = FeatureDiff(FLOOR, graph(), candidate_graph or graph(), expected, mapping)
    mismatch = [diff.update(p).mismatch for p in feature_pairs(FLIGHTS, candidate)]
    return np.concatenate(mismatch), diff.finish()


def report_of(report, name):
    return next(f for f in report.features if f.name == name)


def utc(features):
    hour = ((features["hour"] + 4) % 24).astype(np.float32)
    return features | {
        "hour": hour,
        "hour_sin": circle(hour, np.sin),
        "hour_cos": circle(hour, np.cos),
    }


def test_equal_features_never_mismatch():
    mismatch, report = diffed(copied(FLIGHTS))
    assert not mismatch.any()
    assert {f.verdict for f in report.features} == {ParityVerdict.EQUAL}
    assert report.requests == N


def test_utc_hour_is_the_root_and_its_circle_follows():
    mismatch, report = diffed(utc(FLIGHTS))
    assert mismatch.all()
    assert report.roots == ("hour",)
    assert {(f.name, f.root, f.proven) for f in report.follows} == {
        ("hour_sin", "hour", True),
        ("hour_cos", "hour", True),
    }
    hour = report_of(report, "hour")
    assert (hour.relation, hour.value) == ("cyclic_shift", 4.0)
    assert "follows from hour" in report_of(report, "hour_sin").text


def test_two_faults_are_two_roots():
    candidate = utc(FLIGHTS) | {"distance": FLIGHTS["distance"] * np.float32(1.609344)}
    assert diffed(candidate)[1].roots == ("hour", "distance")


def test_a_later_feature_without_a_rule_may_follow():
    noise = np.random.default_rng(0).normal(0, 30, N).astype(np.float32)
    report = diffed(utc(FLIGHTS) | {"temp": noise})[1]
    found = {f.name: f for f in report.follows}["temp"]
    assert (found.root, found.proven) == ("hour", False)
    assert "may follow from hour" in report_of(report, "temp").text


@pytest.mark.parametrize(
    ("feature", "change", "relation", "value"),
    [
        ("weekday", lambda v: (v + 1) % 7, "cyclic_shift", 1.0),
        ("distance", lambda v: v * np.float32(1.609344), "scaled", 1.609344),
        ("temp", np.nan_to_num, "filled_with_zero", 0.0),
        ("temp", lambda v: ((v - 32) / 1.8).astype(np.float32), "affine", pytest.approx(5 / 9)),
        ("carrier_code", lambda v: (v * 3 + 1) % 8, "permuted", None),
        ("hour", np.floor, "precision", None),
    ],
)
def test_planted_fault_is_named_and_alone(feature, change, relation, value):
    mismatch, report = diffed(FLIGHTS | {feature: change(FLIGHTS[feature])})
    found = report_of(report, feature)
    assert (found.relation, found.value) == (relation, value)
    assert report.roots == (feature,)
    assert found.mismatched_requests == report.mismatched_requests == mismatch.sum()


def test_only_rows_that_change_count():
    changed = FLIGHTS | {"temp": np.nan_to_num(FLIGHTS["temp"])}
    mismatch, report = diffed(changed)
    np.testing.assert_array_equal(mismatch, np.isnan(FLIGHTS["temp"]))
    assert report_of(report, "temp").one_sided == np.isnan(FLIGHTS["temp"]).sum()


def test_refitted_constants_never_count():
    missing = np.isnan(FLIGHTS["temp"])
    refit = np.where(missing, np.float32(56.5), FLIGHTS["temp_imputed"])
    mismatch, report = diffed(FLIGHTS | {"temp_imputed": refit})
    assert not mismatch.any()
    found = report_of(report, "temp_imputed")
    assert found.verdict is ParityVerdict.REFITTED
    assert found.about == "temp"
    assert found.text == "missing temp becomes 56.5 in the candidate, 54.25 in the baseline"


def test_zero_fill_is_named_though_it_does_not_count():
    zeroed = np.nan_to_num(FLIGHTS["temp"])
    mismatch, report = diffed(FLIGHTS | {"temp_imputed": zeroed})
    assert not mismatch.any()
    assert report_of(report, "temp_imputed").relation == "filled_with_zero"


def test_expected_changes_are_reported_not_counted():
    miles = FLIGHTS | {"distance": FLIGHTS["distance"] * 2}
    mismatch, report = diffed(miles, expected=("distance", "distnace"))
    assert not mismatch.any()
    assert report_of(report, "distance").verdict is ParityVerdict.EXPECTED
    assert report.unknown_expected == ("distnace",)
    assert report.roots == ()


def test_swapped_columns_are_named():
    swapped = FLIGHTS | {"distance": FLIGHTS["temp"], "temp": FLIGHTS["distance"]}
    found = report_of(diffed(swapped)[1], "distance")
    assert found.relation == "other_column"
    assert "the baseline's temp" in found.text


def test_codes_are_told_in_the_vocabularys_words():
    words = tuple(CARRIERS[i] for i in np.argsort((np.arange(8) * 3 + 1) % 8))
    other = graph(vocabularies=(("carrier_code", words),))
    changed = FLIGHTS | {"carrier_code": (FLIGHTS["carrier_code"] * 3 + 1) % 8}
    text = report_of(diffed(changed, candidate_graph=other)[1], "carrier_code").text
    assert "codes assigned in another order: 9E 0 → 1" in text


def test_a_feature_of_one_side_is_listed_as_not_compared():
    other = graph(features=(*RAW[1:], "minute"))
    report = diffed(FLIGHTS, candidate_graph=other)[1]
    assert report_of(report, "hour").verdict is ParityVerdict.NOT_COMPARED
    assert report.not_compared == (
        "feature hour: only the baseline declares it",
        "feature minute: only the candidate declares it",
    )


def compared_and_report(candidate, *, baseline=FLIGHTS, expected=(), other=None, mapping=None):
    diff = FeatureDiff(FLOOR, graph(), other or graph(), expected, mapping)
    seen = [diff.update(p) for p in feature_pairs(baseline, candidate, (1000,))]
    return np.concatenate([s.compared for s in seen]), diff.finish()


def without(features, *names):
    return {k: v for k, v in features.items() if k not in names}


def test_a_feature_that_only_the_baseline_declares_leaves_every_request_unproven():
    other = graph(features=[n for n in RAW if n != "weekday"])
    compared, report = compared_and_report(FLIGHTS, other=other)
    assert not compared.any()
    assert report.unproven == (("weekday", "only the baseline declares it"),)


def test_a_feature_that_only_the_candidate_declares_leaves_no_doubt():
    compared, report = compared_and_report(FLIGHTS, other=graph(features=(*RAW, "minute")))
    assert compared.all()
    assert report.unproven == ()


@pytest.mark.parametrize(
    ("baseline", "candidate", "who"),
    [
        ((), ("weekday",), "the candidate's trace does not return it"),
        (("weekday",), (), "the baseline's trace does not return it"),
        (("weekday",), ("weekday",), "neither version's trace returns it"),
    ],
)
def test_a_feature_that_is_not_traced_leaves_every_request_unproven(baseline, candidate, who):
    compared, report = compared_and_report(
        without(FLIGHTS, *candidate), baseline=without(FLIGHTS, *baseline)
    )
    assert not compared.any()
    assert report.unproven == (("weekday", who),)
    assert report_of(report, "weekday").text == who
    assert report.not_compared == (f"feature weekday: {who}",)


def test_a_trace_that_returns_nothing_leaves_every_feature_unproven():
    compared, report = compared_and_report({"odd": FLIGHTS["hour"]})
    assert not compared.any()
    assert [name for name, _ in report.unproven] == list(RAW)


@pytest.mark.parametrize("how", ["undeclared", "untraced"])
def test_an_expected_change_need_not_be_compared(how):
    other = graph(features=[n for n in RAW if n != "weekday"]) if how == "undeclared" else None
    compared, report = compared_and_report(
        without(FLIGHTS, "weekday"), expected=("weekday",), other=other
    )
    assert compared.all()
    assert report.unproven == ()


def test_a_mapped_feature_is_no_missing_one():
    other = graph(features=["day" if n == "weekday" else n for n in RAW])
    renamed = without(FLIGHTS, "weekday") | {"day": FLIGHTS["weekday"]}
    compared, report = compared_and_report(
        renamed, other=other, mapping=Mapping(tensors=(("weekday", "day"),))
    )
    assert compared.all()
    assert report.unproven == ()


def test_a_fitted_tensor_of_the_baseline_alone_leaves_no_doubt():
    compared, report = compared_and_report(FLIGHTS, other=graph(fitted=()))
    assert compared.all()
    assert report.unproven == ()


def test_only_the_requests_without_the_feature_are_unproven():
    diff = FeatureDiff(FLOOR, graph(), graph())
    first, second = feature_pairs(FLIGHTS, FLIGHTS, (1000,))
    lacking = replace(
        second,
        candidate=replace(second.candidate, features=without(second.candidate.features, "weekday")),
    )
    assert diff.update(first).compared.all()
    assert not diff.update(lacking).compared.any()
    report = diff.finish()
    assert report.unproven == ()
    assert (report.whole_requests, report.requests) == (1000, 1000 + len(lacking))
    lost = len(lacking)
    assert (
        report.partly
        == report.not_compared
        == (
            f"feature weekday: not compared in {lost:,} of {1000 + lost:,} requests: the candidate's trace does not return it",
        )
    )


def uneven(pair, *, sides=("candidate",), name="weekday"):
    """A batch in which a feature has several shapes."""
    return replace(
        pair,
        **{
            side: replace(
                getattr(pair, side),
                features=without(getattr(pair, side).features, name),
                uneven=(name,),
            )
            for side in sides
        },
    )


@pytest.mark.parametrize(
    ("sides", "who"),
    [
        (("candidate",), "in the candidate its shape"),
        (("baseline",), "in the baseline its shape"),
        (("baseline", "candidate"), "in both versions its shape"),
    ],
)
def test_a_feature_of_several_shapes_is_not_compared(sides, who):
    diff = FeatureDiff(FLOOR, graph(), graph())
    (pair,) = feature_pairs(FLIGHTS, FLIGHTS)
    assert not diff.update(uneven(pair, sides=sides)).compared.any()
    diff = FeatureDiff.from_state(diff.state(), FLOOR, graph(), graph())
    report = diff.finish()
    why = f"{who} differs among the requests of a batch (or rows that nobody answered would take too much memory)"
    assert report.unproven == (("weekday", why),)
    assert report.uneven == ("weekday",)
    assert report_of(report, "weekday").verdict is ParityVerdict.NOT_COMPARED
    assert report.not_compared == (f"feature weekday: {why}",)


def test_a_fitted_tensor_of_several_shapes_is_not_compared_and_leaves_no_doubt():
    diff = FeatureDiff(FLOOR, graph(), graph())
    (pair,) = feature_pairs(FLIGHTS, FLIGHTS)
    assert diff.update(uneven(pair, name="temp_imputed")).compared.all()
    report = diff.finish()
    assert report.unproven == ()
    assert report.not_compared == (
        "fitted tensor temp_imputed: in the candidate its shape differs among the requests of a batch (or rows that nobody answered would take too much memory)",
    )


def test_a_difference_of_the_others_still_counts():
    changed = without(FLIGHTS, "weekday") | {"distance": FLIGHTS["distance"] * 2}
    diff = FeatureDiff(FLOOR, graph(), graph())
    (pair,) = feature_pairs(FLIGHTS, changed)
    assert diff.update(pair).mismatch.all()


def test_what_was_lost_survives_a_resume():
    diff = FeatureDiff(FLOOR, graph(), graph())
    for pair in feature_pairs(FLIGHTS, without(FLIGHTS, "weekday"), (1000,)):
        diff.update(pair)
        diff = FeatureDiff.from_state(diff.state(), FLOOR, graph(), graph())
    assert diff.finish().unproven == (("weekday", "the candidate's trace does not return it"),)


def test_a_renamed_tensor_is_compared_through_the_mapping():
    other = graph(features=("hours", *RAW[1:]))
    renamed = {("hours" if k == "hour" else k): v for k, v in FLIGHTS.items()}
    _, report = diffed(
        renamed, candidate_graph=other, mapping=Mapping(tensors=(("hour", "hours"),))
    )
    assert report_of(report, "hour").verdict is ParityVerdict.EQUAL


def test_declaring_a_feature_fitted_does_not_take_it_out_of_the_gate():
    other = graph(features=RAW[1:], fitted=("hour", *FITTED))
    assert ("hour", "hour") in match_features(graph(), other, Mapping()).raw


def test_matrix_features_are_judged_by_column():
    matrix = np.random.default_rng(6).normal(size=(400, 3)).astype(np.float32)
    other = matrix.copy()
    other[:, 1] *= 60
    shape = graph(features=("m",), fitted=(), vocabularies=())
    diff = FeatureDiff(floor_of(feature_pairs({"m": matrix}, {"m": matrix})), shape, shape)
    for pair in feature_pairs({"m": matrix}, {"m": other}):
        diff.update(pair)
    verdicts = {f.name: (f.verdict.value, f.relation) for f in diff.finish().features}
    assert verdicts == {
        "m[0]": ("equal", "equal"),
        "m[1]": ("differs", "scaled"),
        "m[2]": ("equal", "equal"),
    }


def test_a_dense_window_shows_a_stale_copy():
    diff = FeatureDiff(FLOOR, graph(), graph())
    stale = FLIGHTS | {"distance": np.roll(FLIGHTS["distance"], 1)}
    for pair in feature_pairs(FLIGHTS, stale):
        diff.update(pair)
    assert report_of(diff.finish(), "distance").relation == "stale"


def test_untraced_batches_are_not_compared():
    (pair,) = feature_pairs(FLIGHTS, FLIGHTS)
    bare = type(pair)(
        requests=pair.requests,
        baseline=pair.baseline,
        candidate=type(pair.candidate)(
            outcome=pair.candidate.outcome,
            outputs={},
            features={},
            trace_outputs={},
            latency_s=pair.candidate.latency_s,
        ),
    )
    diff = FeatureDiff(FLOOR, graph(), graph())
    assert not diff.update(bare).compared.any()
    assert diff.finish().requests == 0


def test_a_wide_feature_gets_one_entry_for_the_columns_that_were_asked():
    wide = np.random.default_rng(7).normal(size=(300, 100)).astype(np.float32)
    shape = graph(features=("e",), fitted=(), vocabularies=())
    diff = FeatureDiff(floor_of(feature_pairs({"e": wide}, {"e": wide})), shape, shape)
    for pair in feature_pairs({"e": wide}, {"e": np.float32(2.5) * wide}):
        diff.update(pair)
    asked, others = diff.finish().features
    assert (asked.name, asked.relation) == ("e[8 columns]", "scaled")
    assert (others.name, others.relation) == ("e[92 more columns]", "other")
    assert asked.mismatched_requests == others.mismatched_requests == 300
