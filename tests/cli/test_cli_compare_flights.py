"""Every flight model against what production runs: its planted fault is named, and nothing else is."""

import json

import pytest
from gates import MODELS

from harness.pipeline.compare import compare_models

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
LONG = {"gbt", "weekday"}
"""Another scorer, like v2 and leaky; another cyclic shift, like utc_hour."""
KINDS = {
    "lower_precision",
    "feature_changed",
    "feature_follows",
    "filled_with_zero",
    "suspicious_refit",
}


@pytest.fixture(scope="module")
def compared(some_flights, windows):
    """What `compare_models` says of v1 and another model; each is compared once."""
    known = {}

    def compare(name):
        if name not in known:
            known[name] = compare_models(
                str(MODELS / "v1.onnx"), str(MODELS / f"{name}.onnx"),
                inputs=[some_flights], limit=1200, cache_dir=windows,
            )  # fmt: skip
        return known[name]

    return compare


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in FAULTS]
)
def test_the_planted_fault_is_named_and_nothing_else(name, compared):
    told = json.loads(compared(name).to_json())["findings"]
    found = {_key(f) for f in told if f["kind"] in KINDS}
    assert {(k, w, r, v if v is None else round(v, 6)) for k, w, r, v in found} == FAULTS[name]


def _key(finding):
    filled = finding["kind"] == "filled_with_zero"
    # A matrix filled with zeros names every raw feature that has gaps.
    where = finding["what"].split(":")[0] if filled else finding["where"]
    return (finding["kind"], where, finding["relation"], finding["value"])


def test_zeros_for_missing_values_name_every_feature_with_gaps(compared):
    told = json.loads(compared("zero_fill").to_json())["findings"]
    (found,) = [f for f in told if f["kind"] == "filled_with_zero"]
    assert {"wind_gust", "plane_age", "seats", "recent_delay"} <= set(found["where"].split(", "))


def test_float16_is_named_and_not_excused_by_a_retrain(compared):
    text = compared("float16").to_text()
    assert "rounded to float16" in text
    assert "retrain" not in text


@pytest.mark.parametrize(("name", "sign"), [("threshold", "0 became 1"), ("leaky", "refitted")])
def test_faults_of_the_scorer_show_in_the_answers(name, sign, compared):
    result = compared(name)
    assert result.exit_code == 1
    assert sign in result.to_text()
    assert "probability: " in result.to_text()
