"""What the order of sums explains of a pair of tensors."""

import numpy as np
import pytest

from harness.core.tensors import Nested
from harness.diff.tensor_trace import TensorTrace

VALUES = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)


def traced(apart, moved=(1e-3, 1e-3, 0), **known):
    """Columns that sums in another order move, and how far the candidate's are apart, of a scale near 1."""
    trace = TensorTrace(**known)
    trace.ordered_from(VALUES, VALUES + np.float32(moved), len(VALUES))
    trace.update(VALUES, VALUES + np.float32(apart), rows=len(VALUES))
    return trace


@pytest.mark.parametrize(
    ("apart", "by_order"),
    [((5e-3, 0, 0), True), ((0, 2e-2, 0), False), ((0, 0, 1e-4), False), ((5e-3, 0, 1e-8), True)],
)
def test_a_difference_is_held_against_what_the_order_moves_its_own_column(apart, by_order):
    trace = traced(apart)
    assert trace.differs
    assert trace.by_order is by_order


def test_nothing_is_explained_where_no_order_was_measured():
    trace = TensorTrace()
    trace.update(VALUES, VALUES + np.float32(1e-3), rows=len(VALUES))
    assert not trace.by_order


def test_where_only_the_order_is_between_the_versions_it_is_noise_of_any_size_to_a_hundredth():
    assert not traced((5e-3, 0, 0), proven=True).differs
    assert traced((0, 0, 1e-4), proven=True).differs
    assert traced((5e-2, 0, 0), moved=(4e-2, 0, 0), proven=True).differs


@pytest.mark.parametrize("turned", [False, True])
def test_a_sequence_and_a_tensor_are_not_the_same(turned):
    pair = (VALUES, Nested(form="[t]", leaves=(VALUES,)))
    trace = TensorTrace()
    trace.update(*(pair[::-1] if turned else pair), rows=len(VALUES))
    assert trace.differs
    assert not trace.same
