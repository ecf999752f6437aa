"""A table's columns become observations that a test may stake its validity on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import TrafficError
from harness.core.policies import Guardrail, Metric, WindowName
from harness.judge.tables import column_values, looks

CLIPPED = Guardrail(
    name="g", metric=Metric.COLUMN, margin=0.1, range=(-0.25, 0.5), column="d",
    window=WindowName.TABLE,
)  # fmt: skip
FLIPS = Guardrail(
    name="f", metric=Metric.DECISION_FLIP, margin=0.1, column="f", window=WindowName.TABLE
)


@given(st.lists(st.floats(), max_size=50))
def test_whatever_a_declared_range_is_given_lies_in_it_or_failed(values):
    seen = column_values(CLIPPED, np.array(values, np.float64))
    inside = (seen.values.x >= -0.25) & (seen.values.x <= 0.5)
    assert (inside ^ seen.values.failed).all()
    assert seen.n_missing == (~np.isfinite(values)).sum()


def test_rows_outside_a_declared_range_are_cut_and_counted():
    seen = column_values(CLIPPED, np.array([-1.0, -0.25, 0.0, 0.5, 0.6]))
    assert seen.n_clipped == (1, 1)
    assert seen.values.x.tolist() == [-0.25, -0.25, 0.0, 0.5, 0.5]


def test_a_value_outside_a_metric_s_own_bounds_is_refused():
    with pytest.raises(TrafficError, match=r"column 'f', row 1: 2 is no value of decision_flip"):
        column_values(FLIPS, np.array([0.0, 2.0, 1.0]))


def test_rounding_at_a_metric_s_bound_is_forgiven():
    seen = column_values(FLIPS, np.array([1.0 + 1e-12, -1e-12]))
    assert seen.values.x.tolist() == [1.0, 0.0]


@given(st.integers(0, 100_000))
def test_looks_cover_every_row_once(n):
    cut = looks(n)
    assert [a for a, _ in cut] == [0, *(b for _, b in cut)][: len(cut)]
    assert all(b > a for a, b in cut)
    assert (cut[-1][1] if cut else 0) == n
