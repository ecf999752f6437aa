"""Fitted constants that are read off the model's own inputs."""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.diff.features import FeatureDiff
from harness.diff.refit_lines import line_of, read_off

N = 600
AGE = np.random.default_rng(3).normal(5, 2, (N, 1)).astype(np.float32)
AGE[::12] = np.nan
DECLARED = graph(features=("hour",), fitted=("age_sc",), vocabularies=())


def traced(*, mean, std, fill):
    age = np.where(np.isnan(AGE), np.float32(fill), AGE)
    scaled = (age - np.float32(mean)) / np.float32(std)
    return {"hour": np.arange(N) % 24, "age_sc": scaled.astype(np.float32)}


def refits_between(old, new):
    before, after = traced(**old), traced(**new)
    diff = FeatureDiff(floor_of(feature_pairs(before, before)), DECLARED, DECLARED)
    at = 0
    for pair in feature_pairs(before, after, (250,)):
        inputs = {"age": AGE[at : at + len(pair)], "name": np.array(["a"] * len(pair), object)}
        at += len(pair)
        diff.update(replace(pair, requests=replace(pair.requests, inputs=inputs)))
        diff = FeatureDiff.from_state(
            diff.state(), floor_of(feature_pairs(before, before)), DECLARED, DECLARED
        )
    return {r.role: r for r in diff.finish().refits}


OLD = {"mean": 5.0, "std": 2.0, "fill": 3.0}


def test_a_scaler_that_acts_on_an_input_is_listed():
    found = refits_between(OLD, {"mean": 5.2, "std": 2.1, "fill": 3.1})
    shown = {role: (r.feature, r.baseline, r.candidate) for role, r in found.items()}
    assert shown == {
        "offset": ("age", pytest.approx(5.0, rel=1e-4), pytest.approx(5.2, rel=1e-4)),
        "scale": ("age", pytest.approx(2.0, rel=1e-4), pytest.approx(2.1, rel=1e-4)),
        "fill": ("age", pytest.approx(3.0, rel=1e-4), pytest.approx(3.1, rel=1e-4)),
    }


def test_a_scaler_of_an_input_that_is_gone_is_doubted():
    found = refits_between(OLD, {"mean": 0.0, "std": 1.0, "fill": 3.0})
    assert found["scale"].suspicious == "the candidate does not scale it"


def test_the_same_scaler_of_an_input_is_no_refit():
    assert refits_between(OLD, OLD) == {}


@pytest.mark.parametrize("fill", [0.0, 5.0])
def test_what_is_nothing_on_both_sides_is_no_refit(fill):
    found = refits_between(
        {"mean": 0.0, "std": 9.0, "fill": fill}, {"mean": 0.0, "std": 11.0, "fill": fill}
    )
    assert list(found) == ["scale"]


@pytest.mark.parametrize("mean", [5.2, 4.7])
def test_a_fill_of_0_is_read_as_0(mean):
    found = refits_between(
        {"mean": mean, "std": 2.0, "fill": 0.0}, {"mean": mean, "std": 2.0, "fill": 3.0}
    )
    assert [(r.role, r.baseline) for r in found.values()] == [("fill", 0.0)]


def test_a_small_fill_is_read_as_it_is():
    old = {"mean": 5.2, "std": 2.0, "fill": 1e-3}
    found = refits_between(old, old | {"fill": 0.0})
    assert found["fill"].baseline == pytest.approx(1e-3, rel=1e-2)
    assert found["fill"].suspicious.startswith("0 stands for a missing value")


def test_a_fill_is_read_where_the_values_are_and_not_at_an_outlier():
    x = np.append(AGE[~np.isnan(AGE)], np.float32(-1e6))
    y = (x * np.float32(1 / 3)).astype(np.float64)
    slope, _ = line_of(x.astype(np.float64), y)
    assert read_off(x.astype(np.float64), y, slope, 0.1) == pytest.approx(0.3, rel=1e-5)
