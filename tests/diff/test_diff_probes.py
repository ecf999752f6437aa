"""Answers of two sessions of one version, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import observed, requests
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.observations import Outcome, PairBatch
from harness.core.tensors import Nested
from harness.diff.probes import ProbeGuard


def guarded(plain, traced, *, rows=None, outcome=None, alone=False):
    """A guard that saw one batch: the same of both versions."""
    n = len(plain["y"]) if rows is None else len(rows)
    seen = replace(observed(n, outputs=plain, traced=traced, outcome=outcome), alone=alone)
    guard = ProbeGuard()
    guard.update(PairBatch(requests=requests(n, rows=rows), baseline=seen, candidate=seen))
    return guard


Y = np.float32([0.5, 0.0, np.nan, 2.0])


@pytest.mark.parametrize(
    "other",
    [
        np.float32([0.5, -0.0, np.nan, 2.0]),
        np.nextafter(Y, np.float32(9)),
        Y.astype(np.float64),
        Y[:, None],
        np.array(["0.5", "0", "n", "2"], object),
    ],
)
def test_anything_but_the_same_bits_differs(other):
    assert guarded({"y": Y}, {"y": Y.copy()}).alike
    guard = guarded({"y": Y}, {"y": other})
    assert not guard.alike
    assert guard.differ
    assert "requests with other bits" in guard.effect()


def test_words_are_compared_as_words():
    words = np.array(["a", "b"], object)
    assert guarded({"y": words}, {"y": words.copy()}).alike
    guard = guarded({"y": words}, {"y": np.array(["a", "c"], object)})
    assert guard.sides["baseline"].examples == ["r1"]


def test_an_output_that_one_session_lacks_differs():
    guard = guarded({"y": Y, "z": Y}, {"y": Y})
    assert guard.sides["candidate"].differing == len(Y)


def sequences(n):
    found = np.empty(n, object)
    found[:] = [Nested(form="[t]", leaves=(np.float32([i]),)) for i in range(n)]
    return found


def test_a_sequence_that_the_session_does_not_hand_over_is_not_compared_and_shows_nothing():
    guard = guarded({"y": Y, "s": sequences(4)}, {"y": Y.copy()})
    assert (guard.sides["baseline"].both, guard.sides["baseline"].differing) == (4, 0)
    assert not guard.differ
    assert not guard.alike
    assert guard.effect() == ""
    assert guard.not_compared()[0].startswith(
        "baseline: whether reading features changes s: a sequ"
    )
    again = ProbeGuard.from_state(guard.state())
    assert again.state() == guard.state()
    assert not again.alike


def test_what_differs_beside_a_sequence_differs():
    guard = guarded({"y": Y, "s": sequences(4)}, {"y": Y + 1})
    assert guard.sides["baseline"].differing == 3
    assert guard.differ


def test_states_of_before_are_read():
    guard = ProbeGuard.from_state({side: [1, 2, 0, []] for side in ("baseline", "candidate")})
    assert guard.alike
    assert not ProbeGuard.from_state({"baseline": [1, 2, 0, [], 3]}).alike


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.data(),
)
def test_a_request_differs_where_one_of_its_rows_does(rows, data):
    total = sum(rows)
    plain = np.arange(3 * total, dtype=np.float32).reshape(total, 3)
    flips = data.draw(st.sets(st.integers(0, total - 1)) if total else st.just(set()))
    failed = data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=len(rows) - 1))
    traced = plain.copy()
    for row in flips:
        traced[row, row % 3] += 1
    owner = np.repeat(np.arange(len(rows)), rows)
    outcome = [Outcome.ERROR if i in failed else Outcome.OK for i in range(len(rows))]
    guard = guarded({"y": plain}, {"y": traced}, rows=rows, outcome=outcome)
    wrong = sorted({int(owner[row]) for row in flips} - failed)
    side = guard.sides["baseline"]
    assert (side.both, side.differing) == (len(rows) - len(failed), len(wrong))
    assert side.examples == [f"r{i}" for i in wrong[:5]]


def test_answers_of_one_session_are_counted_and_show_nothing():
    guard = guarded({"y": Y}, {}, alone=True)
    side = guard.sides["baseline"]
    assert (side.alone, side.both, guard.alike) == (4, 0, False)
    assert "no answer of the baseline could be compared" in guard.effect()
    assert guarded({"y": Y}, {}).effect() == ""


def test_a_saved_guard_goes_on():
    guard = guarded({"y": Y}, {"y": Y * 2})
    again = ProbeGuard.from_state(guard.state())
    assert again.sides == guard.sides
    again.sides["baseline"].examples.append("more")
    assert again.sides != guard.sides
