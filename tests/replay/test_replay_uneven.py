"""Features whose shape differs among the requests of a batch: left out and named, never filled."""

import legs_models as models
import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.core.observations import Outcome
from harness.core.tensors import Signature
from harness.replay.asked import InParts
from harness.replay.assembly import observations_from_parts, shapes_from_signature
from harness.sandbox.answers import BatchAnswer

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
