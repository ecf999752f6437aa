"""Faults among what a retrain changes: behind the first difference, and constants that no fit gives."""

import numpy as np
import pytest
from onnx import parser, save_model

from harness.core.findings import Severity
from harness.core.traffic import RequestBatch
from harness.pipeline.compare import compare_models
from harness.pipeline.graph_rows import worst_rows

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
scored (float[N, 4] x) => (float[N] y, bool[N] late) {{
  w = Constant<value = float[4] {{{weights}}}>()
  bound = Constant<value = float {{{bound}}}>()
  axis = Constant<value = int64[1] {{1}}>()
  weighed = Mul(x, w)
  summed = ReduceSum<keepdims = 0>(weighed, axis)
  y = Sigmoid(summed)
  late = Greater(y, bound)
}}
"""
FITTED, REFITTED, EMPTY = "0.5, 1.5, -1, 2", "0.6, 1.4, -1.1, 1.9", "0, 0, 0, 0"
BOUND = "after the first differences the graphs differ, too: constant bound of Greater → late"


@pytest.fixture
def found(tmp_path):
    """What is found of the model with these weights and this bound, against a fitted one with 0.3."""

    def look(weights, bound):
        for name, drawn in (("old", (FITTED, 0.3)), ("new", (weights, bound))):
            text = MODEL.format(weights=drawn[0], bound=drawn[1])
            save_model(parser.parse_model(text), str(tmp_path / f"{name}.onnx"))
        x = np.random.default_rng(1).normal(size=(80, 4)).astype(np.float32)
        np.savez(tmp_path / "t.npz", x=x)
        return compare_models(
            *(str(tmp_path / f"{name}.onnx") for name in ("old", "new")), inputs=[tmp_path / "t.npz"],
            cache_dir=tmp_path / "cache",
        ).findings  # fmt: skip

    return look


def test_a_threshold_that_moved_behind_a_retrain_is_named(found):
    (later,) = [f for f in found(REFITTED, 0.2) if f.kind == "later_difference"]
    assert later.what == f"{BOUND}: float[] [0.3] → float[] [0.2]"
    assert later.severity is Severity.WARNING
    assert later.where == "late"


def test_a_retrain_alone_has_nothing_behind_its_first_difference(found):
    assert not [f for f in found(REFITTED, 0.3) if f.kind == "later_difference"]


def test_weights_that_all_became_zero_are_no_retrain(found):
    (first,) = [f for f in found(EMPTY, 0.3) if f.kind.startswith("first_divergence")]
    assert first.severity is Severity.WARNING
    assert "No fit makes them all 0" in first.remedy


def test_whole_numbers_of_the_worst_rows_are_shown_with_all_digits():
    before = np.array([1_700_000_123_456_789_001, 3], np.int64)
    batch = RequestBatch(
        seq=np.arange(2), request_id=np.array(["a", "b"], object), ts_ns=np.zeros(2, np.int64),
        rows=np.ones(2, np.int64), inputs={"id": before, "x": np.array([0.1, 0.2])}, recorded={},
        answered=np.zeros(2, np.bool_), context={},
    )  # fmt: skip
    (row,) = worst_rows(before, before + np.array([0, 1]), [batch], tolerance=0.0)
    assert (row.baseline, row.candidate, row.inputs) == ("3", "4", (("id", "3"), ("x", "0.2")))
    (row,) = worst_rows(before, before + np.array([1, 0]), [batch], tolerance=0.0)
    assert (row.baseline, row.candidate) == ("1700000123456789001", "1700000123456789002")
