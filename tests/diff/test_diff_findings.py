import json

import numpy as np
from diff_streams import (
    RAW,
    circle,
    feature_pairs,
    flight_features,
    floor_of,
    graph,
    observed,
    output_pairs,
    requests,
)

from harness.core.findings import Severity
from harness.core.jsonable import jsonable
from harness.diff.faithful import FaithfulDiff
from harness.diff.features import FeatureDiff
from harness.diff.findings import (
    findings_from_faithful,
    findings_from_features,
    findings_from_floor,
    findings_from_outputs,
)
from harness.diff.floor import Floor
from harness.diff.outputs import OutputDiff
from harness.diff.remedies import Asker
from harness.diff.signature import SignatureMatch

N = 2048
FLIGHTS = flight_features(N, np.random.default_rng(4))


def report_on(changes, expected=()):
    diff = FeatureDiff(floor_of(feature_pairs(FLIGHTS, FLIGHTS)), graph(), graph(), expected)
    for pair in feature_pairs(FLIGHTS, FLIGHTS | changes):
        diff.update(pair)
    return diff.finish()


def utc():
    hour = ((FLIGHTS["hour"] + 4) % 24).astype(np.float32)
    return {
        "hour": hour,
        "hour_sin": circle(hour, np.sin),
        "hour_cos": circle(hour, np.cos),
    }


def test_equal_features_give_no_finding():
    assert findings_from_features(report_on({}), 0.001) == []


def test_the_root_comes_first_in_plain_words():
    first, *others = findings_from_features(report_on(utc()), 0.001)
    assert first.what == (
        "hour: candidate = baseline + 4 modulo 24 (local time ↔ UTC?), in 100 % of 2,048 requests"
    )
    assert (first.kind, first.severity, first.value) == ("feature_changed", Severity.HARM, 4.0)
    assert {f.kind for f in others} == {"feature_follows"}


def test_a_difference_within_the_margin_or_without_gate_is_no_harm():
    report = report_on(utc())
    assert findings_from_features(report, None)[0].severity is Severity.WARNING
    assert findings_from_features(report, 1.0)[0].severity is Severity.WARNING


def test_zero_fill_of_a_fitted_tensor_is_a_finding():
    (found,) = findings_from_features(
        report_on({"temp_imputed": np.nan_to_num(FLIGHTS["temp"])}), 0.001
    )
    assert (found.kind, found.where, found.value) == ("filled_with_zero", "temp", 0.0)
    assert found.severity is Severity.WARNING
    assert "missing temp becomes 0 in the candidate, 54.25 in the baseline" in found.what


def test_refitted_constants_are_one_line():
    missing = np.isnan(FLIGHTS["temp"])
    refit = np.where(missing, np.float32(56), FLIGHTS["temp_imputed"])
    (found,) = findings_from_features(report_on({"temp_imputed": refit}), 0.001)
    assert (found.kind, found.severity) == ("refitted", Severity.INFO)


def test_an_unknown_expected_change_is_a_warning():
    (found,) = findings_from_features(report_on({}, expected=("hours",)), 0.001)
    assert found.kind == "expected_change_unknown"


def test_no_declared_features_is_a_warning():
    bare = graph(features=(), fitted=(), vocabularies=())
    (found,) = findings_from_features(FeatureDiff(Floor(), bare, bare).finish(), 0.001)
    assert found.kind == "features_not_compared"


def test_outputs_that_move_without_a_gate_are_information():
    score = np.linspace(0, 1, 100, dtype=np.float32)
    match = SignatureMatch(inputs=(), outputs=(("p", "p"),))
    diff = OutputDiff(match, floor_of(output_pairs({"p": score}, {"p": score})))
    for pair in output_pairs({"p": score}, {"p": score / 2}):
        diff.update(pair)
    report = diff.finish()
    assert findings_from_outputs(report, None)[0].severity is Severity.INFO
    (gated,) = findings_from_outputs(report, 0.001)
    assert gated.severity is Severity.HARM
    assert "baseline × 0.5, in 99 % of 100 requests" in gated.what


def test_an_unfaithful_replay_is_a_finding_with_requests():
    score = np.arange(4, dtype=np.float32)
    diff = FaithfulDiff(Floor())
    diff.update(requests(4, recorded={"p": score}), observed(4, outputs={"p": score + 1}))
    (found,) = findings_from_faithful(diff.finish())
    assert found.kind == "unfaithful_replay"
    assert found.requests == ("r0", "r1", "r2", "r3")


def test_a_random_output_is_a_finding():
    rng = np.random.default_rng(0)
    floor = floor_of(output_pairs({"p": rng.random(50)}, {"p": rng.random(50)}))
    (found,) = findings_from_floor(floor)
    assert (found.kind, found.where) == ("nondeterministic", "p")


def test_reports_and_findings_are_plain_json():
    report = report_on(utc())
    text = json.dumps(jsonable({"report": report, "findings": findings_from_features(report, 0.1)}))
    assert json.loads(text)["report"]["features"][0]["verdict"] == "differs"


def test_a_fitted_tensor_of_one_side_is_information():
    diff = FeatureDiff(floor_of(feature_pairs(FLIGHTS, FLIGHTS)), graph(), graph(fitted=()))
    for pair in feature_pairs(FLIGHTS, FLIGHTS):
        diff.update(pair)
    (found,) = findings_from_features(diff.finish(), 0.001)
    assert (found.kind, found.severity) == ("features_not_compared", Severity.INFO)
    assert found.what == "temp_imputed: only the baseline declares it"


def test_a_raw_feature_of_one_side_is_a_warning():
    other = graph(features=("hour",))
    diff = FeatureDiff(floor_of(feature_pairs(FLIGHTS, FLIGHTS)), graph(), other)
    for pair in feature_pairs(FLIGHTS, FLIGHTS):
        diff.update(pair)
    (found,) = findings_from_features(diff.finish(), 0.001)
    assert (found.kind, found.severity) == ("features_not_compared", Severity.WARNING)


def test_many_tensors_with_one_reason_read_as_one_line():
    names = ("hour", "weekday", "distance", "temp", "origin_code")
    report = FeatureDiff(
        floor_of(feature_pairs(FLIGHTS, FLIGHTS)),
        graph(features=names, fitted=()),
        graph(features=names, fitted=()),
    ).finish()
    (found,) = findings_from_features(report, 0.001)
    assert found.what == "hour, weekday, distance, temp and 1 more: no rows were compared"


def test_what_the_candidate_lost_is_told_apart_from_what_only_it_has():
    other = graph(features=("minute", *RAW[1:]))
    diff = FeatureDiff(floor_of(feature_pairs(FLIGHTS, FLIGHTS)), graph(), other)
    for pair in feature_pairs(FLIGHTS, FLIGHTS):
        diff.update(pair)
    lost, extra = findings_from_features(diff.finish(), 0.001)
    assert (lost.where, lost.severity) == ("hour", Severity.WARNING)
    assert "mapping: {tensors: {hour: TENSOR}}" in lost.remedy
    assert "`expected_changes` of a guardrail with `scope: features`" in lost.remedy
    assert (extra.where, extra.severity) == ("minute", Severity.WARNING)
    assert "expected_changes" not in extra.remedy
    # A comparison has options, and no policy.
    told = findings_from_features(diff.finish(), 0.0, Asker.COMPARISON)
    assert "--map 'tensors:hour=TENSOR'" in told[0].remedy
    assert "--map tensors:OLD=NEW" in told[1].remedy
    assert not any("expected_changes" in f.remedy or "mapping:" in f.remedy for f in told)
