"""Fitted columns beside raw ones: one fault has one name, a clean refit none, a lost step its own."""

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph

from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features

N = 1500
RNG = np.random.default_rng(8)
RAW = {
    "amount": RNG.lognormal(3, 1, N),
    "temp": RNG.normal(15, 8, N),
    "hour": RNG.integers(0, 24, N).astype(float),
    "rare": (RNG.random(N) < 0.004) * RNG.gamma(2, 3, N),
    "category": RNG.choice(6, N, p=[0.4, 0.3, 0.15, 0.1, 0.04, 0.01]).astype(float),
}
for _name in ("amount", "temp"):
    RAW[_name][RNG.random(N) < 0.05] = np.nan
MIXED = np.random.default_rng(2).normal(size=(3, 3)) / (30, 8, 7)
USUAL = {
    "fill": (20, 15), "log": (3, 1), "std": (15, 8), "win": (-4, 34), "rare": (0.02, 0.5),
    "mean": (20, 15, 11), "words": (0, 1, 2, 3, 4, 5), "step": np.log1p, "sign": 1,
}  # fmt: skip


def refit(rng):
    """The constants of another fit."""
    moved = {k: tuple(v * rng.normal(1, 0.02) for v in USUAL[k]) for k in ("fill", "log", "std")}
    moved |= {"win": (rng.normal(-4, 0.3), rng.normal(34, 0.3)), "rare": (0.02, 0.6)}
    return USUAL | moved


def fitted(raw, c):
    """What is computed of raw features with these constants."""
    amount, temp = (
        np.where(np.isnan(raw[k]), f, raw[k])
        for k, f in zip(("amount", "temp"), c["fill"], strict=True)
    )
    low, high = c["win"]
    many = np.stack([amount, temp, raw["hour"]], axis=1)
    found = {
        "imputed": many,
        "log": c["sign"] * (c["step"](np.maximum(amount, 0)) - c["log"][0]) / c["log"][1],
        "std": (temp - c["std"][0]) / c["std"][1],
        "window": (np.clip(temp, low, high) - low) / (high - low),
        "mixed": (many - c["mean"]) @ MIXED,
        "spread": (raw["rare"] - c["rare"][0]) / c["rare"][1],
        "words": np.eye(6)[raw["category"].astype(int)] * np.isin(range(6), c["words"]),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def said(old, new, raw=RAW, upstream=None, distort=None):
    """(kind, where) → what, of all warnings; `upstream` is what the candidate reads, `distort` its fitted ones."""
    sides = []
    for given, constants in ((raw, old), (upstream or raw, new)):
        values = {k: v.astype(np.float32) for k, v in given.items()}
        sides.append(values | fitted(values, constants))
    sides[1] |= {} if distort is None else distort(sides[1])
    declared = graph(features=tuple(raw), fitted=tuple(fitted(raw, old)), vocabularies=())
    diff = FeatureDiff(floor_of(feature_pairs(sides[0], sides[0])), declared, declared)
    for pair in feature_pairs(*sides, (400,)):
        diff.update(pair)
    report = diff.finish()
    found = findings_from_features(report, None)
    return report, {(f.kind, f.where): f.what for f in found if f.severity.value != "info"}


def changed(**features):
    return RAW | {name: change(RAW[name]) for name, change in features.items()}


UPSTREAM = {
    "km": changed(amount=lambda v: v * 1.609344),
    "fahrenheit": changed(temp=lambda v: v * 1.8 + 32),
    "float16": changed(amount=lambda v: v.astype("f2").astype("f4")),
    "clip": changed(temp=lambda v: np.clip(v, -2, 25)),
    "sign": changed(temp=np.negative),
    "zero": changed(temp=np.nan_to_num),
    "swap": RAW | {"amount": RAW["temp"], "temp": RAW["amount"]},
}


@pytest.mark.parametrize("fault", UPSTREAM)
@pytest.mark.parametrize("anew", [False, True])
def test_a_fault_upstream_is_told_where_it_is_and_nowhere_else(fault, anew):
    new = refit(np.random.default_rng(1)) if anew else USUAL
    given = UPSTREAM[fault]
    _, found = said(USUAL, new, upstream=given)
    differ = [n for n in RAW if not np.array_equal(given[n], RAW[n], equal_nan=True)]
    assert sorted(found) == sorted(("feature_changed", name) for name in differ)


def test_a_column_that_follows_says_from_what():
    report, _ = said(USUAL, USUAL, upstream=UPSTREAM["km"])
    (column,) = [r for r in report.features if r.name == "imputed[0]"]
    assert (column.text, column.relation) == ("follows from amount", "other")


def test_a_forgotten_fill_behind_another_unit_is_told_beside_it():
    new = USUAL | {"fill": (0.0, 15)}
    _, found = said(USUAL, new, upstream=UPSTREAM["km"])
    assert {where for _, where in found} == {"amount"}
    assert {kind for kind, _ in found} == {"feature_changed", "suspicious_refit"}


def test_a_fault_in_a_fitted_column_is_told_beside_one_in_another_raw_feature():
    flip = lambda s: {"std": -s["std"]}  # noqa: E731 - a fault
    _, found = said(USUAL, USUAL, upstream=UPSTREAM["km"], distort=flip)
    assert set(found) == {("feature_changed", "amount"), ("suspicious_refit", "temp")}
    assert "the other sign" in found["suspicious_refit", "temp"]


def test_zeros_in_a_matrix_are_told_beside_a_raw_feature_that_differs():
    new = USUAL | {"fill": (20, 0.0)}
    _, found = said(USUAL, new, upstream=UPSTREAM["km"])
    assert ("filled_with_zero", "temp") in found


@pytest.mark.parametrize("anew", [False, True])
def test_a_logarithm_that_was_forgotten_is_named(anew):
    new = refit(np.random.default_rng(2)) if anew else USUAL
    _, found = said(USUAL, new | {"step": np.array, "log": (40, 50)})
    assert set(found) == {("suspicious_refit", "amount")}
    assert "form log(1 + amount) → amount in log" in found["suspicious_refit", "amount"]


@pytest.mark.parametrize(
    ("step", "name"), [(np.sqrt, "√amount"), (np.square, "amount²"), (np.log, "log(amount)")]
)
def test_another_step_before_the_scaler_is_named(step, name):
    _, found = said(USUAL, refit(np.random.default_rng(2)) | {"step": step})
    assert f"log(1 + amount) → {name} in log" in found["suspicious_refit", "amount"]


@pytest.mark.parametrize("anew", [False, True])
def test_the_other_sign_behind_a_logarithm_is_named(anew):
    new = refit(np.random.default_rng(2)) if anew else USUAL
    _, found = said(USUAL, new | {"sign": -1})
    assert set(found) == {("suspicious_refit", "log(1 + amount)")}
    assert "the other sign" in found["suspicious_refit", "log(1 + amount)"]


def test_the_constants_behind_a_logarithm_are_listed():
    report, _ = said(USUAL, USUAL | {"log": (3.1, 0.9)})
    found = {(r.feature, r.role): (r.baseline, r.candidate) for r in report.refits}
    assert found == {
        ("log(1 + amount)", "offset"): pytest.approx((3, 3.1), rel=1e-4),
        ("log(1 + amount)", "scale"): pytest.approx((1, 0.9), rel=1e-4),
    }


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(s, marks=pytest.mark.long) for s in range(6, 40))]
)
def test_a_clean_refit_is_warned_of_nowhere(seed):
    rng = np.random.default_rng(seed)
    new = refit(rng) | {
        "words": (0, 1, 2, 3, *rng.permutation([4, 5])[: seed % 2 + 1]),
        "rare": (0.0, 1.0) if seed % 3 else (0.03, 0.7),
    }
    assert said(USUAL, new)[1] == {}


def test_a_category_that_became_too_rare_is_listed():
    report, found = said(USUAL, USUAL | {"words": (0, 1, 2, 3, 4)})
    assert found == {}
    assert [(r.tensor, r.role, r.baseline) for r in report.refits] == [
        ("words[5]", "vocabulary", "with 5")
    ]


@pytest.mark.parametrize("words", [(0, 2, 3, 4, 5), (0, 1), ()])
def test_categories_that_no_fit_drops_are_told(words):
    _, found = said(USUAL, USUAL | {"words": words})
    assert {kind for kind, _ in found} == {"filled_with_zero"}


def test_a_scaler_that_is_gone_from_a_column_with_spread_is_told():
    raw = RAW | {"rare": RNG.gamma(2, 3, N)}
    _, found = said(USUAL, USUAL | {"rare": (0.0, 1.0)}, raw=raw)
    assert "the candidate does not scale it" in found["suspicious_refit", "rare"]


def test_a_column_that_is_all_fill_and_became_zero_is_told():
    raw = RAW | {"temp": np.full(N, np.nan)}
    _, found = said(USUAL, USUAL | {"fill": (20, 0.0)}, raw=raw)
    assert "filled_with_zero" in {kind for kind, _ in found}
