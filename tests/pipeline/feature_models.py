"""Small feature graphs, drawn by formulas, with one input a feature."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Formula = Callable[["Drawing", str], str]
ML = "ai.onnx.ml"


class Drawing:
    """Nodes in the making; `d("Mul", x, 60.0)` draws one and returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str | float, domain: str = "", **attributes: Any) -> str:
        """Draws a node; a number among its inputs becomes a constant."""
        name = f"t{len(self.nodes)}"
        sources = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(op, sources, [name], domain=domain, **attributes))
        return name

    def constant(self, value: float) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def codes(self, word: str, words: tuple[str, ...]) -> str:
        """Codes of words in the given order, −1 for others."""
        return self("LabelEncoder", word, domain=ML, keys_strings=list(words),
                    values_int64s=list(range(len(words))), default_int64=-1)  # fmt: skip


def same(drawing: Drawing, x: str) -> str:
    return drawing("Identity", x)


def feature_model(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    features: Mapping[str, tuple[str, Formula]],
    *,
    fitted: Mapping[str, tuple[str, Formula]] | None = None,
    vocabularies: Mapping[str, tuple[str, ...]] | None = None,
    score: Formula | None = None,
) -> Path:
    """Writes a model whose score is sigmoid(0) unless told otherwise.

    Args:
      path: where to.
      inputs: examples, for their types.
      features: name → (input or earlier feature, formula).
      fitted: the same, declared as after fitted constants.
      vocabularies: feature → words in code order, as metadata declares them.
      score: of the first input; None = the same everywhere.
    """
    drawing = Drawing()
    for name, (source, formula) in {**features, **(fitted or {})}.items():
        drawing.nodes.append(helper.make_node("Identity", [formula(drawing, source)], [name]))
    first = next(n for n, v in inputs.items() if v.dtype == np.float32)
    raised = (score or (lambda d, x: d("Mul", d("Where", d("IsNaN", x), 0.0, x), 0.0)))(
        drawing, first
    )
    drawing.nodes.append(helper.make_node("Sigmoid", [raised], ["probability"]))
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(object): TensorProto.STRING}
    graph = helper.make_graph(
        drawing.nodes, "features",
        [helper.make_tensor_value_info(n, kinds[v.dtype], ["N"]) for n, v in inputs.items()],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
        drawing.constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid(ML, 3)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    declared = {"harness.features": json.dumps([*features]), "harness.fitted": json.dumps([*(fitted or {})])}  # fmt: skip
    for name, words in (vocabularies or {}).items():
        declared[f"harness.vocabulary.{name}"] = json.dumps(list(words))
    helper.set_model_props(model, declared)
    onnx.save_model(model, str(path))
    return path
