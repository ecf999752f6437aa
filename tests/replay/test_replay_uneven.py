"""Features whose shape differs among the requests of a batch: left out and named, never filled."""

from dataclasses import replace

import legs_models as models
import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.core.observations import Cause, Outcome, PairBatch
from harness.core.tensors import Signature, TensorSpec
from harness.replay.asked import InParts
from harness.replay.assembly import observations_from_parts, shapes_from_signature
from harness.replay.composition import joined
from harness.replay.forms import in_forms
from harness.sandbox.answers import BatchAnswer, BatchFault

NODES = (
    helper.make_node("Neg", ["x"], ["y"]),
    helper.make_node("Add", ["x", "x"], ["twice"]),
    helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
    helper.make_node("Concat", ["last", "d"], ["counts"], axis=0),
    helper.make_node("Tile", ["column", "counts"], ["tiled"]),
)
"""`tiled` holds x as often as d says, in a row of its own; batches of several rows fail."""
TRACED = ("twice", "tiled")


@pytest.fixture
def leg(tmp_path):
    one = [helper.make_tensor_value_info(n, TensorProto.INT64, [1]) for n in ("x", "d", "y")]
    model = models.saved(tmp_path / "m.onnx", NODES[:1], one[:2], one[2:])
    tiled = helper.make_tensor_value_info("tiled", TensorProto.INT64, [None, None])
    traced = [one[2], helper.make_tensor_value_info("twice", TensorProto.INT64, [1]), tiled]
    probed = models.saved(
        tmp_path / "p.onnx", NODES, one[:2], traced, {"last": np.array([1], np.int64)}
    )
    with models.leg_on(model, trace_model=probed, trace_tensors=TRACED) as opened:
        yield opened


def collected(leg, wide):
    """x of 5, 0 and 7, request by request, `tiled` as wide as each asks for."""
    asked = InParts(leg)
    asked.submit(models.batch_of([5, 0, 7], wide), trace=True)
    return asked.collect()


def test_a_feature_of_several_shapes_is_left_out_and_named(leg):
    found = collected(leg, [1, 1, 2])
    assert (found.outcome == Outcome.OK).all()
    assert (list(found.features), found.uneven) == (["twice"], ("tiled",))
    assert found.features["twice"].tolist() == [10, 0, 14]


def test_a_feature_of_one_shape_is_kept(leg):
    found = collected(leg, [2, 2, 2])
    assert found.features["tiled"].tolist() == [[5, 5], [0, 0], [7, 7]]
    assert found.uneven == ()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_request_that_fails_takes_no_feature_from_the_others_wherever_it_stands(
    failing, tmp_path
):
    x, y, twice = (
        helper.make_tensor_value_info(n, TensorProto.INT64, [1]) for n in ("x", "y", "twice")
    )
    held = {"held": np.arange(10)}
    nodes = [helper.make_node("Gather", ["held", "x"], ["y"])]
    model = models.saved(tmp_path / "m.onnx", nodes, [x], [y], held)
    nodes.append(helper.make_node("Add", ["x", "x"], ["twice"]))
    probed = models.saved(tmp_path / "p.onnx", nodes, [x], [y, twice], held)
    asked = [3, 4, 5]
    asked[failing] = 99  # there are ten
    with models.leg_on(model, trace_model=probed, trace_tensors=["twice"]) as leg:
        parts = InParts(leg)
        parts.submit(models.batch_of(asked, [1, 1, 1]), trace=True)
        found = parts.collect()
    assert [Outcome(o).name for o in found.outcome] == [
        "ERROR" if i == failing else "OK" for i in range(3)
    ]
    ok = found.outcome == Outcome.OK
    assert found.features["twice"][ok].tolist() == [2 * a for a in asked if a != 99]
    assert found.trace_outputs["y"][ok].tolist() == [a for a in asked if a != 99]
    assert found.uneven == ()


def assembled(*features):
    """Two parts of a batch of four, with these features."""
    batch = models.batch_with(4, {})
    parts = [
        (
            np.arange(2) + 2 * i,
            BatchAnswer(
                seq=i, rows=2, outputs={"y": np.zeros(2)}, features=found,
                trace_outputs={"y": np.zeros(2)}, keys={}, service_s=1.0,
            ),
        )
        for i, found in enumerate(features)
    ]  # fmt: skip
    shapes = shapes_from_signature(Signature(inputs=(), outputs=()))
    for _, answer in parts:
        shapes.learn(answer)
    return observations_from_parts(batch, parts, {}, shapes, trace=True)


def test_parts_of_one_shape_are_put_together():
    found = assembled({"f": np.ones((2, 3))}, {"f": np.zeros((2, 3))})
    assert found.features["f"].tolist() == [[1] * 3, [1] * 3, [0] * 3, [0] * 3]
    assert (found.uneven, list(found.trace_outputs)) == ((), ["y"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"f": np.ones((2, 3))}, {"f": np.ones((2, 2))}),
        ({"g": np.ones(2)}, {"f": np.ones((2, 2)), "g": np.ones(2)}),
    ],
)
def test_no_start_value_stands_for_what_a_part_does_not_show(first, second):
    found = assembled(first, second)
    assert "f" not in found.features
    assert found.uneven == ("f",)
    assert (found.outcome == Outcome.OK).all()


def test_parts_of_several_shapes_are_answers_of_their_own_requests():
    """Requests 0 and 2 got two columns, 4 got three; 1 failed and 3 was not run."""
    batch = models.batch_with(5, {})
    shapes = shapes_from_signature(Signature(inputs=(), outputs=()))
    shapes.outputs["y"] = np.empty((0, 9))
    parts = [
        (
            np.array(at),
            BatchAnswer(
                seq=9, rows=len(at), outputs={"y": np.array(y), "z": np.array(z)}, features={},
                trace_outputs={}, keys={}, service_s=1.0,
            ),
        )
        for at, y, z in (([0, 2], [[0.0, 0], [2, 2]], [0.0, 2]), ([4], [[4.0, 4, 4]], [4.0]))
    ]  # fmt: skip
    shapes.outputs["z"] = np.empty(0)
    fault = BatchFault(seq=1, kind=Outcome.CRASH, cause=Cause.UNKNOWN, message="died", alive=False)
    found = observations_from_parts(batch, parts, {1: fault}, shapes, trace=False)
    ok, crash, not_run = Outcome.OK, Outcome.CRASH, Outcome.NOT_RUN
    assert found.outcome.tolist() == [ok, crash, ok, not_run, ok]
    assert [count for count, _ in found.forms["y"]] == [1] * 5
    rows = [array.tolist() for _, array in found.forms["y"]]
    assert (rows[0], rows[2], rows[4]) == ([[0.0, 0]], [[2.0, 2]], [[4.0, 4, 4]])
    assert found.outputs["z"][[0, 2, 4]].tolist() == [0.0, 2, 4]
    pair = PairBatch(requests=batch, baseline=found, candidate=found)
    seen = {tuple(at.tolist()): part.baseline for at, part, _ in in_forms(pair)}
    assert {at: o.outputs["y"].shape for at, o in seen.items() if at != (1, 3)} == {
        (0, 2): (2, 2), (4,): (1, 3)
    }  # fmt: skip
    assert seen[0, 2].outputs["y"].tolist() == [[0.0, 0], [2, 2]]
    assert seen[1, 3].outcome.tolist() == [crash, not_run]


def test_an_output_that_a_part_lacks_is_none_of_the_whole():
    shapes = shapes_from_signature(Signature(inputs=(), outputs=()))
    shapes.outputs |= {"y": np.empty(0), "z": np.empty(0)}
    parts = [
        (
            np.array([i]),
            BatchAnswer(
                seq=9, rows=1, outputs=outputs, features={}, trace_outputs={}, keys={}, service_s=1.0
            ),
        )
        for i, outputs in enumerate(({"y": np.ones(1), "z": np.ones(1)}, {"y": np.ones(1)}))
    ]  # fmt: skip
    batch = models.batch_with(2, {})
    found = observations_from_parts(batch, parts, {}, shapes, trace=False)
    assert (list(found.outputs), found.forms) == (["y"], {})


def test_what_nobody_answered_takes_no_memory_however_long_it_is_declared():
    wide = TensorSpec(name="y", datatype="FP32", shape=(10**12,))
    shapes = shapes_from_signature(Signature(inputs=(), outputs=(wide,)))
    fault = BatchFault(seq=1, kind=Outcome.ERROR, message="refused", alive=True)
    batch, faults = models.batch_with(2, {}), {0: fault, 1: fault}
    found = joined([observations_from_parts(batch, [], faults, shapes, trace=True)] * 2)
    assert found.outputs["y"].shape == (4, 0)
    empty = BatchAnswer(
        seq=1, rows=0, outputs={"y": np.empty((0, 1))}, features={}, trace_outputs={}, keys={}, service_s=1.0
    )  # fmt: skip
    bare = replace(batch, rows=np.array([0, 1]))
    part = [(np.array([0]), empty)]
    partly = observations_from_parts(bare, part, {1: fault}, shapes, trace=False)
    assert partly.outputs["y"].shape == (1, 0)


def test_a_large_request_that_is_refused_takes_no_features_from_the_others_of_its_batch():
    batch = replace(models.batch_with(2, {}), rows=np.array([1, 50_000]))
    answer = BatchAnswer(
        seq=0, rows=1, outputs={"y": np.zeros(1)}, features={"f": np.ones((1, 100), np.float32)},
        trace_outputs={"y": np.zeros(1)}, keys={}, service_s=1.0,
    )  # fmt: skip
    shapes = shapes_from_signature(Signature(inputs=(), outputs=()))
    shapes.learn(answer)
    fault = BatchFault(seq=1, kind=Outcome.ERROR, message="refused", alive=True)
    found = observations_from_parts(
        batch, [(np.array([0]), answer)], {1: fault}, shapes, trace=True
    )
    assert found.uneven == ()
    assert found.features["f"].shape == (50_001, 100)
    assert (found.features["f"][0] == 1).all()
    assert np.isnan(found.features["f"][1:]).all()
