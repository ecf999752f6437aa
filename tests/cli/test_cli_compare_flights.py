"""Every flight model against what production runs: its planted fault is named, and nothing else is."""

import json

import pytest
from gates import MODELS

FAULTS = {
    "v2": set(),
    "threshold": set(),
    "float16": {("lower_precision", "imputed", "precision", None)},
    "leaky": set(),
    "gbt": set(),
    "km": {("feature_changed", "distance", "scaled", 1.609344)},
    "category_order": {
        ("feature_changed", "carrier_code", "permuted", None),
        ("feature_changed", "origin_code", "permuted", None),
    },
    "zero_fill": {("filled_with_zero", "imputed", "filled_with_zero", 0.0)},
    "utc_hour": {
        ("feature_changed", "hour", "cyclic_shift", 4.0),
        ("feature_follows", "hour_sin", "other", None),
        ("feature_follows", "hour_cos", "other", None),
    },
    "weekday": {("feature_changed", "weekday", "cyclic_shift", 1.0)},
}
"""Faults of the scorer (threshold, float16, leaky) and other scorers leave every feature as it was."""
KINDS = {"lower_precision", "feature_changed", "feature_follows", "filled_with_zero"}


@pytest.mark.parametrize("name", FAULTS)
def test_the_planted_fault_is_named_and_nothing_else(name, harness, some_flights):
    ran = harness("compare", MODELS / "v1.onnx", MODELS / f"{name}.onnx", "-i", some_flights,
                  "--limit", 1200, "--json")  # fmt: skip
    told = json.loads(ran.out)["findings"]
    found = {_key(f) for f in told if f["kind"] in KINDS}
    assert {(k, w, r, v if v is None else round(v, 6)) for k, w, r, v in found} == FAULTS[name]


def _key(finding):
    filled = finding["kind"] == "filled_with_zero"
    # A matrix filled with zeros names every raw feature that has gaps.
    where = finding["what"].split(":")[0] if filled else finding["where"]
    return (finding["kind"], where, finding["relation"], finding["value"])


def test_zeros_for_missing_values_name_every_feature_with_gaps(harness, some_flights):
    words = ("compare", MODELS / "v1.onnx", MODELS / "zero_fill.onnx", "-i", some_flights, "--json")
    (found,) = [f for f in json.loads(harness(*words).out)["findings"] if f["kind"] == "filled_with_zero"]  # fmt: skip
    assert {"wind_gust", "plane_age", "seats", "recent_delay"} <= set(found["where"].split(", "))


def test_float16_is_named_and_not_excused_by_a_retrain(harness, some_flights):
    words = (
        "compare",
        MODELS / "v1.onnx",
        MODELS / "float16.onnx",
        "-i",
        some_flights,
        "--limit",
        600,
    )
    text = harness(*words).out
    assert "rounded to float16" in text
    assert "retrain" not in text


@pytest.mark.parametrize(("name", "sign"), [("threshold", "0 became 1"), ("leaky", "refitted")])
def test_faults_of_the_scorer_show_in_the_answers(name, sign, harness, some_flights):
    words = (
        "compare",
        MODELS / "v1.onnx",
        MODELS / f"{name}.onnx",
        "-i",
        some_flights,
        "--limit",
        600,
    )
    ran = harness(*words)
    assert ran.code == 1
    assert sign in ran.out
    assert "probability: " in ran.out
