from pathlib import Path

import numpy as np
import onnx
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.policies import SandboxPolicy
from harness.sandbox.hello import LoadFailure
from harness.sandbox.tracing import Edit, Edited, Traced, Tracer, edit

LIMITS = SandboxPolicy(batch_deadline_s=5.0)
FLOAT = TensorProto.FLOAT


def edited(path: Path, **wanted) -> Edited:
    found = edit(path, Edit(**wanted), path.with_name("copy.onnx"), LIMITS)
    assert isinstance(found, Edited), found
    return found


def run(copy: Edited, feeds: dict, wanted: list[str] | None = None, **options) -> Traced:
    tracer = Tracer.start(copy.path, limits=LIMITS, **options)
    assert isinstance(tracer, Tracer), tracer
    with tracer:
        answer = tracer.run(feeds, tracer.tensors if wanted is None else wanted)
    assert answer.failure == "", answer.failure
    return answer


def constant(name: str, value) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(value, np.float32), name)


def branch(nodes: list, output: str, constants: list) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(output, FLOAT, None)
    return helper.make_graph(nodes, "b", [], [out], constants)


def branching(path: Path) -> Path:
    """y = 2x when the sum is positive, else x or 3x by a nested If on x's maximum."""
    inner = models.node(
        "If", ["big"], ["n"],
        then_branch=branch([models.node("Mul", ["x", "c"], ["o"])], "o", [constant("c", 3.0)]),
        else_branch=branch([models.node("Identity", ["x"], ["o"])], "o", []),
    )  # fmt: skip
    outer = models.node(
        "If", ["positive"], ["y"],
        then_branch=branch([models.node("Mul", ["x", "c"], ["o"])], "o", [constant("c", 2.0)]),
        else_branch=branch([inner], "n", []),
    )  # fmt: skip
    return models.saved(
        path,
        [
            models.node("ReduceSum", ["x"], ["s"], keepdims=0),
            models.node("Greater", ["s", "zero"], ["positive"]),
            models.node("ReduceMax", ["x"], ["m"], keepdims=0),
            models.node("Greater", ["m", "zero"], ["big"]),
            outer,
        ],
        [models.tensor("x", FLOAT, 2)],
        [models.tensor("y", FLOAT, 2)],
        constants={"zero": np.array(0, np.float32)},
    )


def test_every_tensor_comes_back_whole_whatever_its_shape(tmp_path):
    copy = edited(branching(tmp_path / "m.onnx"))
    assert copy.exposed == ("s", "positive", "m", "big")
    x = np.array([[1, 2], [3, 4]], np.float32)
    found = run(copy, {"x": x}).tensors
    assert found["s"].shape == ()
    assert found["s"] == 10
    assert found["positive"] == np.True_
    np.testing.assert_array_equal(found["y"], 2 * x)


def test_branches_are_laid_open_as_they_are_taken(tmp_path):
    path = branching(tmp_path / "m.onnx")
    assert edited(path).branches == (("y", "positive"),)
    once = edited(path, taken=(("y", False),))
    assert once.branches == (("y.else.n", "big"),)
    twice = edited(path, taken=(("y", False), ("y.else.n", True)))
    assert twice.branches == ()
    assert [n.op for n in twice.graph.nodes][-3:] == ["Mul", "Identity", "Identity"]
    x = np.array([[1, -9]], np.float32)
    found = run(twice, {"x": x}).tensors
    np.testing.assert_array_equal(found["y"], 3 * x)
    np.testing.assert_array_equal(found["y.else.n.then.o"], 3 * x)


def test_a_branch_on_a_constant_needs_no_word(tmp_path):
    node = models.node(
        "If", ["yes"], ["y"],
        then_branch=branch([models.node("Neg", ["x"], ["o"])], "o", []),
        else_branch=branch([models.node("Abs", ["x"], ["o"])], "o", []),
    )  # fmt: skip
    path = models.saved(
        tmp_path / "m.onnx", [node], [models.tensor("x", FLOAT, 1)], [models.tensor("y", FLOAT, 1)],
        constants={"yes": np.array(True)},
    )  # fmt: skip
    assert [n.op for n in edited(path).graph.nodes] == ["Neg", "Identity"]


def test_bodies_that_cannot_be_looked_into_are_told(tmp_path):
    body = helper.make_graph(
        [models.node("Identity", ["keep"], ["more"]), models.node("Neg", ["v"], ["w"])],
        "b",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, None),
        ],
    )
    path = models.saved(
        tmp_path / "m.onnx",
        [models.node("Loop", ["n", "", "x"], ["y"], body=body)],
        [models.tensor("x", FLOAT, 1)],
        [models.tensor("y", FLOAT, 1)],
        constants={"n": np.array(3, np.int64)},
    )
    assert edited(path).closed == (("Loop", "y"),)


def chain(path: Path, opset: int = 15) -> Path:
    """x → doubled → shifted → y."""
    return models.saved(
        path,
        [
            models.node("Mul", ["x", "two"], ["doubled"]),
            models.node("Add", ["doubled", "two"], ["shifted"]),
            models.node("Neg", ["shifted"], ["y"]),
        ],
        [models.tensor("x", FLOAT, "k")],
        [models.tensor("y", FLOAT, "k")],
        constants={"two": np.array(2, np.float32)},
        opset=opset,
    )


def test_a_tensor_that_is_fed_replaces_the_computed_one(tmp_path):
    copy = edited(chain(tmp_path / "m.onnx"), patched=("doubled",), tensors=("doubled",))
    assert copy.fed == ("doubled",)
    x = np.ones((2, 3), np.float32)
    found = run(copy, {"x": x, "doubled#patched": 10 * x}).tensors
    np.testing.assert_array_equal(found["y"], -12 * x)
    np.testing.assert_array_equal(found["doubled"], 2 * x)


@pytest.mark.parametrize(("opset", "length"), [(9, 3), (15, 3 + 64), (18, 3 + 64)])
def test_a_sketch_is_small_and_says_how_large_the_values_are(tmp_path, opset, length):
    copy = edited(chain(tmp_path / "m.onnx", opset), sketch=True)
    assert copy.sketched == ("doubled", "shifted")
    x = np.arange(3000, dtype=np.float32).reshape(50, 60)
    found = run(copy, {"x": x}, [copy.returned("doubled")]).tensors["doubled#sketch"]
    assert found.shape == (length,)
    assert found[0] == 0
    assert found[1] == 5998
    np.testing.assert_allclose(found[2], np.linalg.norm(2 * x), rtol=1e-5)


@pytest.mark.parametrize("sketch", [False, True])
def test_types_that_numpy_lacks_are_cast(tmp_path, sketch):
    path = models.saved(
        tmp_path / "m.onnx",
        [
            models.node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
            models.node("Cast", ["b"], ["y"], to=FLOAT),
        ],
        [models.tensor("x", FLOAT, 1)],
        [models.tensor("y", FLOAT, 1)],
    )
    copy = edited(path, sketch=sketch)
    assert copy.returned("b") == "b#float32"
    assert run(copy, {"x": np.full((1, 1), 1.5, np.float32)}).tensors["b#float32"] == 1.5


def test_strings_and_scores_by_class_come_back(tmp_path):
    copy = edited(models.zipmap(tmp_path / "m.onnx"))
    answer = run(copy, {"x": np.ones((2, 2), np.float32)})
    assert answer.keys == {"p": ("late", "on time")}
    words = edited(models.identity(tmp_path / "s.onnx", TensorProto.STRING))
    text = np.array([["ä", ""]], dtype=object)
    assert run(words, {"x": text}).tensors["y"].tolist() == [["ä", ""]]


def test_a_run_that_fails_says_why_and_the_next_one_works(tmp_path):
    copy = edited(chain(tmp_path / "m.onnx"))
    tracer = Tracer.start(copy.path, limits=LIMITS)
    assert isinstance(tracer, Tracer)
    with tracer:
        assert "x" in tracer.run({}, ["y"]).failure
        assert tracer.run({"x": np.ones((1, 1), np.float32)}, ["y"]).failure == ""


def test_a_copy_that_kills_its_process_is_a_failure_and_no_exception(tmp_path):
    copy = edited(models.division(tmp_path / "m.onnx"))
    tracer = Tracer.start(copy.path, limits=LIMITS)
    assert isinstance(tracer, Tracer)
    with tracer:
        low = np.array([-(2**31)], np.int32)
        assert "SIGFPE" in tracer.run({"x": low, "d": np.array([-1], np.int32)}, ["y"]).failure
        assert tracer.run({"x": low, "d": low}, ["y"]).failure != ""


def test_a_copy_that_does_not_load_is_a_load_failure(tmp_path):
    path = tmp_path / "copy.onnx"
    path.write_bytes(b"no model")
    assert isinstance(Tracer.start(path, limits=LIMITS), LoadFailure)
