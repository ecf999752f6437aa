"""ONNX's single-operator cases through the differ: a sample always, all of them on request."""

import numpy as np
import onnx
import pytest

from harness.bench.operator_cases import OperatorCase, operator_cases
from harness.bench.operator_pairs import Pairs, changes_by_itself
from harness.bench.operators import OperatorCounts, check_operators, clearly_apart
from harness.bench.parity import EVERY
from harness.pipeline.graph_opening import Sandboxed

SEED = 7
"""The command's, unless it is asked for another."""


@pytest.fixture(scope="module")
def cases() -> list[OperatorCase]:
    return list(operator_cases())


def accounted(counts: OperatorCounts) -> bool:
    """Whether every case that did not go through has a reason."""
    through = counts.located.total() + counts.refused.total()
    return through >= counts.cases


# A quarter of the command's sample, and all of it.
@pytest.mark.parametrize(
    ("every", "located"), [(4 * EVERY, 15), pytest.param(EVERY, 60, marks=pytest.mark.long)]
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_commands_sample_is_equal_to_itself_and_its_alterations_are_located(
    cases, every, located
):
    counts = check_operators(cases[::every], seed=SEED, guarded=True)
    assert counts.wrong == []
    assert accounted(counts)
    assert counts.equal >= 0.8 * counts.ran
    assert counts.located.total() >= located


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


def test_a_copy_whose_values_are_left_to_chance_is_told_from_one_that_was_overlooked(
    cases, tmp_path, monkeypatch
):
    (case,) = (c for c in cases if c.name == "test_rotary_embedding_with_rotary_dim")
    pairs = Pairs(tmp_path)
    assert not changes_by_itself(case.model, case.feeds, pairs)
    altered = onnx.ModelProto()
    altered.CopyFrom(case.model)
    (size,) = (a for a in altered.graph.node[0].attribute if a.name == "rotary_embedding_dim")
    # Half a pair: onnxruntime neither refuses it nor writes all of its answer.
    size.i += 1
    # A process in which it ran often gives it the same memory again and again: 2 of 20 were another.
    for _ in range(4):
        assert values_seen(monkeypatch, pairs, altered, case.feeds) > 15


def values_seen(monkeypatch, pairs, model, feeds):
    """How many of the answers to twenty runs are told apart."""
    seen = []

    def kept(model, feeds):
        seen.append(Pairs.values(pairs, model, feeds))
        return seen[-1]

    monkeypatch.setattr(pairs, "values", kept)
    assert changes_by_itself(model, feeds, pairs)
    monkeypatch.undo()
    return len({tuple(a.tobytes() for a in one.tensors.values()) for one in seen})


def test_clearly_apart_knows_nan_words_and_rounding():
    one = np.ones(3, np.float32)
    assert not clearly_apart(one, one + np.float32(1e-6))
    assert clearly_apart(one, one + np.float32(0.1))
    assert clearly_apart(one, np.array([1, 1, np.nan], np.float32))
    assert clearly_apart(np.array(["a"], object), np.array(["b"], object))


def test_a_case_without_a_kernel_is_refused_by_its_reason():
    kind = onnx.TensorProto.BFLOAT16
    cast = onnx.helper.make_node("Cast", ["x"], ["low"], to=kind)
    last = onnx.helper.make_node("Cast", ["c"], ["y"], to=onnx.TensorProto.FLOAT)
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in ("x", "y")
    )
    graph = onnx.helper.make_graph(
        [cast, onnx.helper.make_node("Cos", ["low"], ["c"]), last], "g", [x], [y]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    model.ir_version = 10
    case = OperatorCase(name="cos_bfloat16", model=model, feeds={"x": np.zeros(3, np.float32)})
    counts = check_operators([case], seed=SEED)
    assert dict(counts.refused) == {"onnxruntime does not load or run it": 1}
    assert (counts.cases, counts.ran, counts.wrong) == (1, 0, [])
    assert accounted(counts)
