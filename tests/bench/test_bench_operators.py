"""ONNX's single-operator cases through the differ: a sample always, all of them on request."""

import numpy as np
import pytest

from harness.bench.operator_cases import OperatorCase, operator_cases
from harness.bench.operators import OperatorCounts, check_operators, clearly_apart
from harness.pipeline.graph_opening import Sandboxed

SEED = 7


@pytest.fixture(scope="module")
def cases() -> list[OperatorCase]:
    return list(operator_cases())


def accounted(counts: OperatorCounts) -> bool:
    """Whether every case that did not go through has a reason."""
    through = counts.located.total() + counts.refused.total()
    return through >= counts.cases


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_sample_of_operators_is_equal_to_itself_and_alterations_are_located(cases):
    rng = np.random.default_rng(SEED)
    counts = check_operators(
        [cases[i] for i in rng.permutation(len(cases))[:40]], seed=SEED, guarded=True
    )
    assert counts.wrong == []
    assert accounted(counts)
    assert counts.located.total() >= 22


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_all_operators_are_equal_to_themselves_and_alterations_are_located(cases):
    counts = check_operators(cases, seed=SEED, guarded=True)
    assert counts.wrong == []
    assert accounted(counts)
    assert counts.cases > 1800


@pytest.mark.long
def test_a_sample_of_operators_goes_the_same_way_through_the_sandbox(cases):
    rng = np.random.default_rng(SEED)
    chosen = [cases[i] for i in rng.permutation(len(cases))[:60]]
    here, there = (check_operators(chosen, seed=SEED, opener=o) for o in (None, Sandboxed()))
    assert (here.located, here.refused, here.wrong) == (there.located, there.refused, there.wrong)


def test_clearly_apart_knows_nan_words_and_rounding():
    one = np.ones(3, np.float32)
    assert not clearly_apart(one, one + np.float32(1e-6))
    assert clearly_apart(one, one + np.float32(0.1))
    assert clearly_apart(one, np.array([1, 1, np.nan], np.float32))
    assert clearly_apart(np.array(["a"], object), np.array(["b"], object))
