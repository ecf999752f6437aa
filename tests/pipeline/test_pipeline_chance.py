"""Random operators are told from the graphs: never a difference, and never parity."""

from pathlib import Path

import numpy as np
import pytest
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper, save_model

from harness.pipeline.compare import compare_models
from harness.pipeline.compare_result import CompareResult

FLOAT = TensorProto.FLOAT


def saved(
    path: Path,
    nodes: list[NodeProto],
    constant: float = 2.0,
    functions: tuple[FunctionProto, ...] = (),
) -> Path:
    """Outputs p and q of x, with the constant c."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 2])],
        [helper.make_tensor_value_info(n, FLOAT, ["N", 2]) for n in ("p", "q")],
        [numpy_helper.from_array(np.float32(constant), "c")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    model.ir_version = 8
    save_model(model, str(path))
    return path


def seeded(path: Path, constant: float = 2.0) -> Path:
    """q = −(x·c) is steady; p = x·c + noise of a seeded generator."""
    nodes = [
        helper.make_node("Mul", ["x", "c"], ["h"]),
        helper.make_node("RandomNormalLike", ["h"], ["r"], seed=5.0),
        helper.make_node("Add", ["h", "r"], ["p"]),
        helper.make_node("Neg", ["h"], ["q"]),
    ]
    return saved(path, nodes, constant)


def compared(tmp_path: Path, old: Path, new: Path) -> CompareResult:
    values = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=values)
    return compare_models(
        str(old), str(new), inputs=[tmp_path / "x.npz"],
        cache_dir=tmp_path / "cache",
    )  # fmt: skip


def test_a_model_with_a_seeded_generator_does_not_diverge_from_itself(tmp_path):
    path = seeded(tmp_path / "m.onnx")
    result = compared(tmp_path, path, path)
    assert (result.comparable, result.intermediates["compared"]["output_mismatches"]) == (False, 0)
    (found,) = [f for f in result.findings if f.kind == "nondeterministic"]
    assert found.where == "p"
    assert "RandomNormalLike → r" in found.what
    assert not [f for f in result.findings if f.kind in ("optimiser_or_runtime", "output_changed")]
    assert (
        "output p: random: computed from the baseline's RandomNormalLike → r" in result.not_compared
    )
    assert "2 of 2 tensors equal" in result.graph.to_text()
    assert "2 nondeterministic after RandomNormalLike → r" in result.graph.to_text()


def test_what_chance_does_not_reach_is_judged_as_usual(tmp_path):
    result = compared(tmp_path, seeded(tmp_path / "a.onnx"), seeded(tmp_path / "b.onnx", 3.0))
    assert (result.comparable, result.equal) == (True, False)
    assert {f.where.split("[")[0] for f in result.findings if f.kind == "output_changed"} == {"q"}


def in_a_function() -> tuple[list[NodeProto], tuple[FunctionProto, ...]]:
    body = [
        helper.make_node("RandomUniformLike", ["a"], ["u"]),
        helper.make_node("Add", ["a", "u"], ["b"]),
    ]
    made = helper.make_function("own", "Blur", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return [helper.make_node("Blur", ["x"], ["p"], domain="own")], (made,)


def in_a_body() -> tuple[list[NodeProto], tuple[FunctionProto, ...]]:
    def branch(op: str) -> object:
        node = helper.make_node(op, ["x"], [f"v{op}"])
        return helper.make_graph(
            [node], op, [], [helper.make_tensor_value_info(f"v{op}", FLOAT, None)]
        )

    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    chosen = helper.make_node(
        "If", ["yes"], ["p"], then_branch=branch("RandomUniformLike"), else_branch=branch("Neg")
    )
    return [yes, chosen], ()


@pytest.mark.parametrize("nodes", [in_a_function, in_a_body])
def test_chance_is_seen_inside_functions_and_bodies(tmp_path, nodes):
    made, functions = nodes()
    steady = helper.make_node("Mul", ["x", "c"], ["q"])
    path = saved(tmp_path / "m.onnx", [*made, steady], functions=functions)
    result = compared(tmp_path, path, path)
    assert not result.comparable
    (found,) = [f for f in result.findings if f.kind == "nondeterministic"]
    assert found.where == "p"
    assert "RandomUniformLike → p" in found.what


def test_a_shape_is_the_same_by_whatever_chance(tmp_path):
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Expand", ["c", "s"], ["p"]),
        helper.make_node("Mul", ["x", "c"], ["q"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes)
    result = compared(tmp_path, path, path)
    assert result.comparable
    assert result.equal
