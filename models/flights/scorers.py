"""From named features to a probability: the logistic scorer, in float32 and float16, and trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from models.flights.data import schema
from models.flights.graphs import ML, Drawing, Reading

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """Everything training fitted, by name."""

    mean: dict[str, float]
    """Number feature → training mean; also what a missing value becomes."""
    deviation: dict[str, float]
    """Number feature → training standard deviation, > 0."""
    weight: dict[str, float]
    """Number feature, or feature=value for one-hots → weight."""
    intercept: float
    """Log-odds of a flight whose every column is 0."""

    def columns(self, reading: Reading) -> Floats:
        """Weights in the order of the design matrix's columns."""
        numbers = list(reading.entering("number"))
        return np.array([self.weight[c] for c in numbers + onehot_columns(reading)])


def onehot_values(feature: str) -> tuple[int, ...]:
    """The codes a one-hot feature can take."""
    words = schema().vocabularies.get(feature)
    return tuple(range(7 if words is None else len(words)))


def onehot_columns(reading: Reading) -> list[str]:
    """Names of the one-hot columns, in order: feature=value."""
    return [f"{f}={v}" for f in reading.entering("onehot") for v in onehot_values(f)]


def draw_numbers(drawing: Drawing, reading: Reading) -> str:
    """Draws the number features as one matrix, NaN where nothing is known, [N, k]."""
    axis = drawing.constant("axis", [1], np.int64)
    parts = [
        drawing.node("Unsqueeze", [name, axis], f"{name}_column")
        for name in reading.entering("number")
    ]
    return drawing.node("Concat", parts, "numbers", axis=1)


def draw_imputed(drawing: Drawing, reading: Reading, fitted: Logistic, *, zero: bool) -> str:
    """Draws the matrix with NaN replaced by training means (or, as a fault, by 0)."""
    means = [0.0 if zero else fitted.mean[n] for n in reading.entering("number")]
    return drawing.node(
        "Imputer",
        [draw_numbers(drawing, reading)],
        "imputed",
        domain=ML,
        imputed_value_floats=means,
        replaced_value_float=float("nan"),
    )


def draw_logistic(
    drawing: Drawing, reading: Reading, fitted: Logistic, *, zero: bool = False
) -> None:
    """Draws probability = sigmoid(scaled numbers and one-hots · weights + intercept)."""
    numbers = reading.entering("number")
    scaled = drawing.node(
        "Scaler",
        [draw_imputed(drawing, reading, fitted, zero=zero)],
        "scaled",
        domain=ML,
        offset=[fitted.mean[n] for n in numbers],
        scale=[1 / fitted.deviation[n] for n in numbers],
    )
    design = drawing.node("Concat", [scaled, *_draw_onehots(drawing, reading)], "design", axis=1)
    logit = _draw_logit(drawing, design, fitted, reading, np.float32)
    drawing.node("Sigmoid", [logit], "probability")


def draw_logistic_half(drawing: Drawing, reading: Reading, fitted: Logistic) -> None:
    """Draws the same scorer in float16 from the feature matrix on."""
    numbers = reading.entering("number")
    matrix = drawing.cast(draw_numbers(drawing, reading), TensorProto.FLOAT16, "numbers_half")
    missing = drawing.node("IsNaN", [matrix], "missing")
    means = drawing.constant("means", [fitted.mean[n] for n in numbers], np.float16)
    scales = drawing.constant("scales", [1 / fitted.deviation[n] for n in numbers], np.float16)
    imputed = drawing.node("Where", [missing, means, matrix], "imputed")
    centred = drawing.node("Sub", [imputed, means], "centred")
    scaled = drawing.node("Mul", [centred, scales], "scaled")
    onehots = [
        drawing.cast(name, TensorProto.FLOAT16, f"{name}_half")
        for name in _draw_onehots(drawing, reading)
    ]
    design = drawing.node("Concat", [scaled, *onehots], "design", axis=1)
    logit = _draw_logit(drawing, design, fitted, reading, np.float16)
    half = drawing.node("Sigmoid", [logit], "probability_half")
    drawing.cast(half, TensorProto.FLOAT, "probability")


def draw_trees(
    drawing: Drawing, reading: Reading, fitted: Logistic, ensemble: onnx.NodeProto
) -> None:
    """Draws a converted tree ensemble behind the same features.

    Args:
      drawing: where the features already are.
      reading: how raw fields are read.
      fitted: its means fill what is missing.
      ensemble: the converter's TreeEnsembleClassifier node; columns are the number features,
        then the codes.
    """
    imputed = draw_imputed(drawing, reading, fitted, zero=False)
    codes = []
    for name in reading.entering("onehot"):
        column = drawing.node("Unsqueeze", [name, "axis"], f"{name}_column")
        codes.append(drawing.cast(column, TensorProto.FLOAT, f"{name}_f"))
    node = onnx.NodeProto()
    node.CopyFrom(ensemble)
    del node.input[:], node.output[:]
    node.input.append(drawing.node("Concat", [imputed, *codes], "stacked", axis=1))
    node.output.extend(["tree_label", "tree_probabilities"])
    node.name = "trees"
    drawing.nodes.append(node)
    late = drawing.constant("late_class", 1, np.int64)
    drawing.node("Gather", ["tree_probabilities", late], "probability", axis=1)


def _draw_onehots(drawing: Drawing, reading: Reading) -> list[str]:
    return [
        drawing.node(
            "OneHotEncoder",
            [name],
            f"{name}_onehot",
            domain=ML,
            cats_int64s=list(onehot_values(name)),
            zeros=1,
        )
        for name in reading.entering("onehot")
    ]


def _draw_logit(
    drawing: Drawing, design: str, fitted: Logistic, reading: Reading, dtype: npt.DTypeLike
) -> str:
    # One column of weights: this MatMul sums every row alike, alone or in a batch. ReduceSum and
    # LinearRegressor do not.
    weights = drawing.constant("weights", fitted.columns(reading)[:, None], dtype)
    product = drawing.node("MatMul", [design, weights], "product")
    intercept = drawing.constant("intercept", fitted.intercept, dtype)
    total = drawing.node("Add", [product, intercept], "logit_column")
    return drawing.node("Squeeze", [total, "axis"], "logit")
