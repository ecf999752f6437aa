"""Fitted constants that are read off the model's own inputs."""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.diff.features import FeatureDiff

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
