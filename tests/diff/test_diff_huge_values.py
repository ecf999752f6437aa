"""Values near the largest of float64: a name, or none, and never an error or a warning."""

import numpy as np
import pytest
from diff_streams import copied, feature_pairs, floor_of, graph, output_pairs

from harness.diff.equal_values import equal_values
from harness.diff.features import FeatureDiff
from harness.diff.outputs import OutputDiff
from harness.diff.refit_doubts import doubted_offset
from harness.diff.relations import name_relation
from harness.diff.reports import ParityVerdict
from harness.diff.signature import SignatureMatch

LARGEST = np.finfo(np.float64).max
ROWS = 200
ENDS = [(-1e308, 1e308), (1e308, 1.7e308), (-LARGEST, LARGEST), (-1e300, 1e300)]


def told(baseline, candidate):
    """What a run says of one output."""
    floor = floor_of(output_pairs({"y": baseline}, {"y": baseline.copy()}))
    diff = OutputDiff(SignatureMatch(inputs=(), outputs=(("y", "y"),)), floor)
    for pair in output_pairs({"y": baseline}, {"y": candidate}):
        diff.update(pair)
    return diff.finish().outputs[0]


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("share", [0.02, 0.05, 0.3, 0.6, 1.0])
def test_answers_that_explode_are_told(ends, share):
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    exploded = rng.random(ROWS) < share
    for rest in (1.2 * x + 3.0, x + 2.0, rng.normal(size=ROWS), x):
        huge = rng.choice(ends, ROWS) * (rng.random(ROWS) if share == 1.0 else 1.0)
        found = told(x, np.where(exploded, huge, rest))
        assert found.mismatched_requests >= exploded.sum()


@pytest.mark.parametrize("size", [1e200, 1e300, 1e307, 1.5e308])
@pytest.mark.parametrize(
    "change",
    [
        lambda v, size: np.where(np.arange(ROWS) % 2, v + size * 0.1, v - size * 0.1),
        lambda v, size: v + size * 0.01,
        lambda v, _: np.roll(v, 1),
        lambda v, _: np.where(np.arange(ROWS) % 2, v, 0.0),
        lambda v, size: np.where(np.arange(ROWS) % 3, v, -size),
    ],
    ids=["two shifts", "shift", "roll", "zero", "sentinel"],
)
def test_both_sides_may_be_huge(size, change):
    before = np.clip(np.random.default_rng(1).normal(size=ROWS) / 3, -0.9, 0.9) * size
    assert name_relation(before, change(before, size), order=np.arange(ROWS)).text


def test_a_factor_of_huge_values_keeps_its_name():
    before = np.clip(np.random.default_rng(2).normal(size=ROWS) / 3, -1, 1) * 1e308
    assert name_relation(before, 1.01 * before).text == "candidate = baseline × 1.01"
    assert name_relation(before, -before).text == "candidate = −baseline"


def test_a_huge_offset_that_is_gone_is_doubted():
    raw = np.arange(100.0)
    assert "was before" in doubted_offset(1e308, 0.0, 1.0, raw)


def test_the_largest_number_may_stand_for_none():
    before = np.random.default_rng(3).normal(size=ROWS)
    before[::10] = LARGEST
    after = np.where(before == LARGEST, -LARGEST, 1.2 * np.fmin(before, 9.0) + 3.0)
    found = name_relation(before, after)
    assert found.text == (
        "candidate = baseline × 1.2 + 3; "
        "elsewhere candidate is -1.797693e+308 wherever the baseline is 1.797693e+308"
    )


@pytest.mark.parametrize("size", [1e160, 1e308])
def test_a_huge_raw_feature_explains_no_fitted_one(size):
    rng = np.random.default_rng(4)
    raw = np.where(rng.random(ROWS) < 0.3, size, rng.normal(size=ROWS))
    wide = raw[:, None] * rng.random((1, 3))
    fitted = rng.normal(size=ROWS)
    before = {"hour": raw, "weekday": wide, "temp_imputed": fitted}
    after = {"hour": -raw, "weekday": wide[::-1], "temp_imputed": np.zeros(ROWS)}
    floor = floor_of(feature_pairs(before, copied(before)))
    both = graph(("hour", "weekday"), vocabularies=())
    diff = FeatureDiff(floor, both, both)
    for pair in feature_pairs(before, after, cuts=(60,)):
        diff.update(pair)
    report = diff.finish()
    told = {r.name.split("[")[0] for r in report.features if r.verdict is not ParityVerdict.EQUAL}
    assert told == {"hour", "weekday", "temp_imputed"}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_tensors_of_huge_values_stand_for_their_equals(dtype):
    largest = np.finfo(dtype).max
    shapes = np.random.default_rng(3).uniform(-1, 1, size=(3, ROWS, 2)) * largest
    one, two, other = shapes.astype(dtype)
    near = (shapes[0] * (1 - 1e-7)).astype(dtype)
    small = one / dtype(1e30)
    ours, theirs = equal_values(
        {"a": one, "b": two, "c": small}, {"p": two, "q": other, "r": near, "s": small}, rows=ROWS
    )
    assert [ours[n] for n in "abc"] == [theirs[n] for n in "rps"]
    assert len({*ours.values(), *theirs.values()}) == 4
