"""Small models, each with one property that a sandbox has to get right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, save_model

N = "N"


def tensor(name: str, kind: int, *trailing: int | str, scalar: bool = False) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [] if scalar else [N, *trailing])


def node(operator: str, inputs: list[str], outputs: list[str], **attributes) -> NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def saved(
    path: Path,
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    *,
    constants: dict[str, np.ndarray] | None = None,
    metadata: dict[str, str] | None = None,
    opset: int = 15,
) -> Path:
    initialisers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initialisers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    if metadata:
        helper.set_model_props(model, metadata)
    save_model(model, str(path))
    return path


def identity(path: Path, kind: int = TensorProto.FLOAT) -> Path:
    return saved(
        path, [node("Identity", ["x"], ["y"])], [tensor("x", kind, 2)], [tensor("y", kind, 2)]
    )


def division(path: Path) -> Path:
    """y = x / d on int32: d = 0 makes the runtime raise, INT_MIN / −1 kills the process by SIGFPE."""
    kind = TensorProto.INT32
    return saved(
        path,
        [node("Div", ["x", "d"], ["y"])],
        [tensor("x", kind), tensor("d", kind)],
        [tensor("y", kind)],
    )


def zipmap(path: Path) -> Path:
    """Scores as float32 and as ZipMap with the classes "late" and "on time"."""
    classes = {"classlabels_strings": ["late", "on time"]}
    maps = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    probabilities = helper.make_value_info("p", helper.make_sequence_type_proto(maps))
    return saved(
        path,
        [node("ZipMap", ["x"], ["p"], domain="ai.onnx.ml", **classes), node("Neg", ["x"], ["n"])],
        [tensor("x", TensorProto.FLOAT, 2)],
        [probabilities, tensor("n", TensorProto.FLOAT, 2)],
    )


def counting(path: Path) -> Path:
    """Loops max(x) times: 2**62 never ends."""
    body = helper.make_graph(
        [node("Identity", ["c"], ["c_out"]), node("Add", ["v", "v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.INT64, None),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.INT64, None),
        ],
    )
    return saved(
        path,
        [
            node("ReduceMax", ["x"], ["times"], keepdims=0),
            node("Loop", ["times", "", "x"], ["y"], body=body),
        ],
        [tensor("x", TensorProto.INT64)],
        [tensor("y", TensorProto.INT64)],
    )


def hungry(path: Path) -> Path:
    """Allocates max(x) float32 values."""
    return saved(
        path,
        [
            node("ReduceMax", ["x"], ["size"], keepdims=1),
            node("ConstantOfShape", ["size"], ["big"]),
            node("ReduceSum", ["big"], ["sum"], keepdims=0),
            node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "sum"], ["y"]),
        ],
        [tensor("x", TensorProto.INT64)],
        [tensor("y", TensorProto.FLOAT)],
    )


def two_steps(path: Path) -> Path:
    """z = relu(2 x + 1), with the intermediate tensors "doubled" and "shifted" and metadata."""
    kind = TensorProto.FLOAT
    return saved(
        path,
        [
            node("Mul", ["x", "two"], ["doubled"]),
            node("Add", ["doubled", "one"], ["shifted"]),
            node("Relu", ["shifted"], ["z"]),
        ],
        [tensor("x", kind, 2)],
        [tensor("z", kind, 2)],
        constants={"two": np.float32([2.0]), "one": np.float32([1.0])},
        metadata={
            "harness.features": '["doubled"]',
            "harness.fitted": '["shifted"]',
            "harness.vocabulary.carrier": '["AA", "UA"]',
            "harness.training_cutoff": "2013-08-31T00:00:00Z",
        },
    )
