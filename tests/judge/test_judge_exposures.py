"""Live units: one arm, one step, one value, once."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import TrafficError
from harness.judge.exposures import Exposures, Requests

SECOND = 10**9


def requests(rows):
    """(second, unit, candidate, π, value) rows → Requests."""
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 5
    return Requests(
        ts_ns=np.asarray(np.array(columns[0], np.float64) * SECOND, np.int64),
        unit=np.array(columns[1], object),
        candidate=np.array(columns[2], np.bool_),
        propensity=np.array(columns[3], np.float64),
        values={"x": np.array(columns[4], np.float64)},
    )


def test_a_unit_closes_once_with_its_first_step_and_its_mean():
    exposures = Exposures(("x",), 10.0)
    opened = exposures.add(
        requests([(0, "a", True, 0.1, 1.0), (3, "a", True, 0.5, 0.0), (4, "b", False, 0.5, 0.25)])
    )
    assert opened.unit == ("a", "b")
    assert exposures.close(9 * SECOND).unit == ()
    closed = exposures.close(10 * SECOND)
    assert (closed.unit, closed.values["x"].tolist()) == (("a",), [0.5])
    assert (closed.candidate.tolist(), closed.propensity.tolist()) == ([True], [0.1])
    assert exposures.close(100 * SECOND).unit == ("b",)
    assert exposures.close(200 * SECOND).unit == ()


def test_later_requests_and_arm_changes_are_ignored_and_counted():
    exposures = Exposures(("x",), 10.0)
    exposures.add(requests([(0, "a", True, 0.1, 1.0), (5, "a", False, 0.1, 0.0)]))
    exposures.add(requests([(12, "a", True, 0.1, 0.0)]))
    assert exposures.close(20 * SECOND).values["x"].tolist() == [1.0]
    exposures.add(requests([(30, "a", True, 0.9, 0.0)]))
    assert exposures.close(90 * SECOND).unit == ()
    assert exposures.ignored == {"arm_changed": 1, "after_maturity": 2}
    assert len(exposures) == 1


@pytest.mark.parametrize("saved", [False, True])
def test_a_request_that_says_nothing_neither_fails_nor_moves_its_unit(saved):
    exposures = Exposures(("x",), 10.0)
    rows = [(0, "a", True, 0.5, 1.0), (1, "a", True, 0.5, math.nan), (2, "b", True, 0.5, math.nan)]
    silent = {"x": np.array([False, True, True])}
    exposures.add(dataclasses.replace(requests(rows), left_out=silent))
    if saved:
        state = json.loads(json.dumps(exposures.state()))
        exposures = Exposures(("x",), 10.0).restore(state)
    closed = exposures.close(20 * SECOND)
    assert (closed.unit, closed.absent["x"].tolist()) == (("a", "b"), [False, True])
    entering = closed.present("x")
    assert (entering.unit, entering.values["x"].tolist()) == (("a",), [1.0])


def test_a_failed_request_fails_its_unit():
    exposures = Exposures(("x",), 10.0)
    exposures.add(requests([(0, "a", True, 0.5, 1.0), (1, "a", True, 0.5, math.nan)]))
    assert np.isnan(exposures.close(20 * SECOND).values["x"]).all()


def test_without_a_maturity_the_first_request_alone_counts():
    exposures = Exposures(("x",), 0.0)
    exposures.add(
        requests([(0, "a", True, 0.5, 1.0), (0, "a", True, 0.5, 0.0), (1, "a", True, 0.5, 0.0)])
    )
    assert exposures.close(2 * SECOND).values["x"].tolist() == [1.0]
    assert exposures.ignored == {"after_maturity": 2}


@pytest.mark.parametrize("maturity", [-1.0, math.nan])
def test_a_negative_maturity_is_refused(maturity):
    with pytest.raises(TrafficError):
        Exposures(("x",), maturity)


ROWS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from("abcdef"), st.booleans(), st.floats(0, 1)),
    max_size=50,
)


@given(ROWS, st.lists(st.integers(0, 45), max_size=5))
def test_however_traffic_is_cut_and_saved_the_same_units_come_out(rows, cuts):
    rows = sorted(((t, u, arm, 0.5, x) for t, u, arm, x in rows), key=lambda row: row[0])
    ends = [*sorted(cuts), 1_000]
    whole = Exposures(("x",), 7.0)
    whole.add(requests(rows))
    expected = whole.close(1_000 * SECOND)
    cut, found = Exposures(("x",), 7.0), []
    start = 0
    for end in ends:
        cut = Exposures(("x",), 7.0).restore(json.loads(json.dumps(cut.state())))
        cut.add(requests([row for row in rows if start <= row[0] < end]))
        closed = cut.close(end * SECOND)
        found += zip(closed.unit, closed.candidate, closed.values["x"], strict=True)
        start = end
    assert [row[0] for row in found] == list(expected.unit)
    assert [row[1] for row in found] == expected.candidate.tolist()
    assert [row[2] for row in found] == pytest.approx(expected.values["x"].tolist())
    assert cut.ignored == whole.ignored


def reference(rows, maturity_s):
    """One request at a time, in plain words."""
    first, sums = {}, {}
    for t, unit, arm, _, x in rows:
        born, home = first.setdefault(unit, (t, arm))
        if t < born + maturity_s and arm == home:
            sums.setdefault(unit, []).append(x)
    return {unit: float(np.mean(values)) for unit, values in sums.items()}


@given(ROWS)
def test_it_agrees_with_one_request_at_a_time(rows):
    rows = sorted(((t, u, arm, 0.5, x) for t, u, arm, x in rows), key=lambda row: row[0])
    exposures = Exposures(("x",), 7.0)
    exposures.add(requests(rows))
    closed = exposures.close(1_000 * SECOND)
    found = dict(zip(closed.unit, closed.values["x"].tolist(), strict=True))
    assert found == pytest.approx(reference(rows, 7.0))
