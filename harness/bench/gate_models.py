"""Flight models of a known weight: the logistic one, the boosted one with more trees, a heavy one.

What is added never changes the logistic model's answer: a small network reads the probability, and
its bounded result goes into the probability times zero. No optimiser may drop that, because it would
matter if the result were not finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.pipeline.assets import assets_root

if TYPE_CHECKING:
    import onnx

_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One line of the benchmark: what a model's row is meant to cost, and what the gate must reach."""

    name: str
    source: str
    """The flight model it is made of."""
    about_us: float
    """What a row should cost at least, microseconds; the bench prints what it costs here."""
    ratio: float
    """Least throughput of the gate, as a share of what two cores give without it."""
    requests: int
    """How many the window has, unless the caller says otherwise."""
    width: int = 0
    """Units of the added network; 0 = none."""
    layers: int = 0
    """Of these units."""
    trees: int = 1
    """Times that the trees are repeated."""


WEIGHTS = {
    "logistic": Weight(name="logistic", source="v2", about_us=1.3, ratio=0.6,
                       requests=1_000_000, width=64, layers=28),
    "boosted": Weight(name="boosted", source="gbt", about_us=5.0, ratio=0.85,
                      requests=1_000_000, trees=3),
    "heavy": Weight(name="heavy", source="v2", about_us=5000.0, ratio=0.97,
                    requests=2_048, width=1024, layers=360),
}  # fmt: skip


def write_model(weight: Weight, folder: Path) -> Path:
    """Writes the model of a weight.

    Args:
      weight: what to make.
      folder: where to; must exist.
    """
    import onnx

    model = onnx.load(assets_root() / "models" / "flights" / f"{weight.source}.onnx")
    if weight.trees > 1:
        _repeat_trees(model, weight.trees)
    if weight.layers:
        _add_network(model, weight.width, weight.layers)
    path = folder / f"{weight.name}.onnx"
    onnx.save(model, path)
    return path


def _repeat_trees(model: onnx.ModelProto, times: int) -> None:
    """Every tree so many times, each with that part of its weight."""
    (node,) = (n for n in model.graph.node if n.op_type == "TreeEnsembleClassifier")
    for attribute in node.attribute:
        if not attribute.name.startswith(("nodes_", "class_")):
            continue
        if attribute.name.endswith("treeids"):
            ids = np.array(attribute.ints)
            count = int(ids.max()) + 1
            attribute.ints[:] = np.concatenate([ids + k * count for k in range(times)]).tolist()
        elif attribute.name == "class_weights":
            attribute.floats[:] = [w / times for w in attribute.floats] * times
        else:
            attribute.ints[:] = list(attribute.ints) * times
            attribute.floats[:] = list(attribute.floats) * times
            attribute.strings[:] = list(attribute.strings) * times


def _add_network(model: onnx.ModelProto, width: int, layers: int) -> None:
    """A tanh network of one input; its output times zero is added to the probability."""
    from onnx import helper, numpy_helper

    graph = model.graph
    rng = np.random.default_rng(_SEED)
    weights = {
        "load_in": rng.normal(size=(1, width)),
        "load_hidden": rng.normal(size=(width, width)) / np.sqrt(width),
        "load_out": rng.normal(size=(width, 1)),
        "load_zero": np.zeros(1),
    }
    for name, values in weights.items():
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "load_axis"))
    (last,) = (n for n in graph.node if "probability" in n.output)
    last.output[list(last.output).index("probability")] = "load_probability"
    nodes = [helper.make_node("Unsqueeze", ["load_probability", "load_axis"], ["load_0"])]
    steps = ["load_in", *["load_hidden"] * layers, "load_out"]
    for i, matrix in enumerate(steps):
        nodes.append(helper.make_node("MatMul", [f"load_{i}", matrix], [f"load_{i}_sum"]))
        nodes.append(helper.make_node("Tanh", [f"load_{i}_sum"], [f"load_{i + 1}"]))
    nodes += [
        helper.make_node("Squeeze", [f"load_{len(steps)}", "load_axis"], ["load_flat"]),
        helper.make_node("Mul", ["load_flat", "load_zero"], ["load_nothing"]),
        helper.make_node("Add", ["load_probability", "load_nothing"], ["probability"]),
    ]
    at = list(graph.node).index(last) + 1
    rest = list(graph.node)[at:]
    del graph.node[at:]
    graph.node.extend([*nodes, *rest])
