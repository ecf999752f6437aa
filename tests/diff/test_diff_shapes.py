"""Shapes are part of an answer: another one differs, whatever the values are."""

import tracemalloc

import numpy as np
import pytest
from diff_streams import graph, observed, requests

from harness.core.observations import PairBatch
from harness.diff.column_difference import compare_columns
from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features, findings_from_outputs
from harness.diff.floor import Floor
from harness.diff.floor_builder import FloorBuilder
from harness.diff.outputs import OutputDiff
from harness.diff.reports import ParityVerdict
from harness.diff.signature import SignatureMatch

ROWS = 4
MATCH = SignatureMatch(inputs=(), outputs=(("p", "p"),))


def batch(at, **sides):
    made = {
        side: observed(ROWS, outputs={"p": tensor}, features={"f": tensor})
        for side, tensor in sides.items()
    }
    return PairBatch(requests=requests(ROWS, start=at * ROWS), **made)


def values(*trailing):
    return np.arange(ROWS * int(np.prod(trailing)), dtype=np.float32).reshape(ROWS, *trailing)


def diffed(*shapes, expected=()):
    """One batch for each (baseline's, candidate's) trailing shape, with the same values."""
    diff = OutputDiff(MATCH, Floor(), expected)
    found = []
    for at, (old, new) in enumerate(shapes):
        pair = batch(at, baseline=values(*old), candidate=values(*new))
        found.append(diff.update(pair).mismatch.tolist())
        diff = OutputDiff.from_state(diff.state(), MATCH, Floor(), expected)
    return found, diff.finish()


ALL, NONE = [True] * ROWS, [False] * ROWS


@pytest.mark.parametrize(
    ("old", "new"), [((2, 3), (3, 2)), ((2, 3), (6, 1)), ((), (1,)), ((1,), ())]
)
def test_an_output_of_the_same_values_in_another_shape_differs(old, new):
    found, report = diffed((old, new))
    assert found == [ALL]
    assert report.reshaped[0][0] == "p"
    before, after = (", ".join(["rows", *map(str, shape)]) for shape in (old, new))
    assert f"the shape ({before}) became ({after})" in report.outputs[0].text
    (finding,) = findings_from_outputs(report, None)
    assert finding.severity == "warning"


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_only_the_requests_with_another_shape_differ(changed):
    shapes = [((2, 3), (3, 2) if at == changed else (2, 3)) for at in range(3)]
    found, report = diffed(*shapes)
    assert found == [ALL if at == changed else NONE for at in range(3)]
    assert {o.verdict for o in report.outputs} == {ParityVerdict.DIFFERS}
    assert {o.mismatched_requests for o in report.outputs} == {ROWS}


def test_a_shape_that_both_sides_change_alike_is_equal():
    found, report = diffed(*[((width,), (width,)) for width in (3, 5, 2, 80, 4)])
    assert found == [NONE] * 5
    assert not report.reshaped


def test_a_difference_shows_in_a_batch_with_fewer_columns_than_the_first():
    diff = OutputDiff(MATCH, Floor())
    assert not diff.update(batch(0, baseline=values(5), candidate=values(5))).mismatch.any()
    other = values(3).copy()
    other[2, 1] = 99.0
    assert diff.update(batch(1, baseline=values(3), candidate=other)).mismatch.tolist() == [
        False, False, True, False,
    ]  # fmt: skip
    assert [o.name for o in diff.finish().outputs if o.mismatched_requests] == ["p[1]"]


@pytest.mark.parametrize("widths", [(5, 3, 5), (3, 5), (80, 4), (4, 80)])
def test_a_floor_is_measured_where_the_number_of_columns_changes(widths):
    builder = FloorBuilder()
    for at, width in enumerate(widths):
        builder.update(batch(at, baseline=values(width), candidate=values(width)))
    assert builder.finish().silent


def test_an_expected_change_of_shape_is_told_not_counted():
    found, report = diffed(((2, 3), (3, 2)), expected=("p",))
    assert (found, report.reshaped) == ([NONE], ())
    assert report.outputs[0].verdict is ParityVerdict.EXPECTED


def test_a_feature_that_becomes_a_column_is_equal_and_told():
    diff = FeatureDiff(Floor(), graph(("f",), ()), graph(("f",), ()))
    pair = batch(0, baseline=values(), candidate=values(1))
    assert not diff.update(pair).mismatch.any()
    report = diff.finish()
    assert report.features[0].verdict is ParityVerdict.EQUAL
    assert "the shape (rows) became (rows, 1)" in report.features[0].text
    told = [f.what for f in findings_from_features(report, 0.0) if f.kind == "feature_reshaped"]
    assert told == ["f: the shape (rows) became (rows, 1); its values were compared as one column"]


def test_a_feature_of_another_matrix_shape_differs():
    diff = FeatureDiff(Floor(), graph(("f",), ()), graph(("f",), ()))
    assert diff.update(batch(0, baseline=values(2, 3), candidate=values(3, 2))).mismatch.all()


def test_wide_rows_that_all_differ_take_little_memory():
    old = np.zeros((64, 200_000), dtype=np.float32)
    new = old + np.float32(1e-9)
    new[[3, 40, 63], [7, 199_999, 0]] = [1.0, np.nan, 2.0]
    one = np.ones(200_000)
    tracemalloc.start()
    found = compare_columns(old, new, 1e-6 * one, one, typical=one, noise=0 * one)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.argwhere(found.mismatch).tolist() == [[3, 7], [40, 199_999], [63, 0]]
    assert (found.absolute[0], found.masked[199_999]) == (2.0, True)
    assert peak < 2 * old.nbytes  # in one go it is ten times as much
