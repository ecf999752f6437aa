"""The same model as other tools would write it, and files that are wrong in other ways."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.flights.graphs import OPSETS, Drawing

CLASSES = (0, 1)
"""On time, late: the keys of the score map."""


def draw_zipmap(drawing: Drawing) -> list[onnx.ValueInfoProto]:
    """Draws `probabilities`, one {class: score} per row, and returns the outputs that declare it."""
    one = drawing.constant("one", 1, np.float32)
    punctual = drawing.node("Sub", [one, "probability"], "punctual")
    pair = [
        drawing.node("Unsqueeze", [name, "axis"], f"{name}_pair")
        for name in (punctual, "probability")
    ]
    scores = drawing.node("Concat", pair, "scores", axis=1)
    drawing.node(
        "ZipMap", [scores], "probabilities", domain="ai.onnx.ml", classlabels_int64s=list(CLASSES)
    )
    score = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    row = helper.make_map_type_proto(TensorProto.INT64, score)
    return [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_value_info("probabilities", helper.make_sequence_type_proto(row)),
    ]


def reexported(model: onnx.ModelProto, kept: tuple[str, ...]) -> onnx.ModelProto:
    """Rewrites a model as another converter would, without changing a bit of its scores.

    Imputation becomes IsNaN and Where with the means as an initializer of their own, an Identity
    sits before the one-hots and the score map, nodes stand in another topological order, and nodes
    and inner tensors carry other names.

    Args:
      model: written by `graphs.written`.
      kept: tensor names that stay: the features, which are a contract.
    """
    other = onnx.ModelProto()
    other.CopyFrom(model)
    nodes = [n for node in other.graph.node for n in _rewritten(other.graph, node)]
    nodes = _reordered(nodes, {i.name for i in other.graph.input})
    fixed = {*kept, *(v.name for v in [*other.graph.input, *other.graph.output])}
    made = [name for node in nodes for name in node.output if name not in fixed]
    names = {name: f"variable{i}" for i, name in enumerate(made)}
    names |= {c.name: f"initializer{i}" for i, c in enumerate(other.graph.initializer)}
    for i, node in enumerate(nodes):
        node.name = f"N{i}_{node.op_type}"
        for slots in (node.input, node.output):
            slots[:] = [names.get(s, s) for s in slots]
    for constant in other.graph.initializer:
        constant.name = names[constant.name]
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    other.graph.name = "exported"
    other.producer_name = "another-exporter"
    for entry in other.metadata_props:
        if entry.key == "harness.fitted":
            entry.value = _renamed_list(entry.value, names)
    return other


def unloadable() -> onnx.ModelProto:
    """A well-formed file that no onnxruntime loads: its operator exists nowhere."""
    node = helper.make_node(
        "FlightDelayScorer", ["distance_miles"], ["probability"], domain="com.example.custom"
    )
    graph = helper.make_graph(
        [node],
        "flights",
        [helper.make_tensor_value_info("distance_miles", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
    )
    imports = [helper.make_opsetid(d, v) for d, v in {**OPSETS, "com.example.custom": 1}.items()]
    return helper.make_model(graph, producer_name="flights", ir_version=8, opset_imports=imports)


def _rewritten(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes another converter writes for this one."""
    if node.op_type == "Imputer":
        given = {a.name: a for a in node.attribute}
        means = np.array(given["imputed_value_floats"].floats, np.float32)
        graph.initializer.append(numpy_helper.from_array(means, "imputer_statistics"))
        source, output = node.input[0], node.output[0]
        return [
            helper.make_node("IsNaN", [source], ["is_missing"]),
            helper.make_node("Where", ["is_missing", "imputer_statistics", source], [output]),
        ]
    if node.op_type in ("OneHotEncoder", "ZipMap"):
        passed = f"{node.input[0]}_passed"
        identity = helper.make_node("Identity", [node.input[0]], [passed])
        node.input[0] = passed
        return [identity, node]
    return [node]


def _reordered(nodes: list[onnx.NodeProto], ready: set[str]) -> list[onnx.NodeProto]:
    """Another topological order: always the last node whose inputs are there."""
    made = {name for node in nodes for name in node.output}
    waiting, ordered = list(nodes), []
    while waiting:
        node = next(
            n for n in reversed(waiting) if all(s in ready or s not in made for s in n.input)
        )
        waiting.remove(node)
        ordered.append(node)
        ready = ready | set(node.output)
    return ordered


def _renamed_list(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return text
