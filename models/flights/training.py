"""Fits the scorers on features that the graph itself computed, so training and serving agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pandas as pd
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from models.flights.data import columns, schema
from models.flights.graphs import OPSETS, Drawing, Reading, draw_features, written
from models.flights.scorers import Logistic, onehot_values

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Features = dict[str, Array]
# Fitted constants keep this many digits: a solver's last bits differ between machines, files must not.
DIGITS = 6
TREES = 100
TREE_ROWS = 60_000
FOREST_TREES = 12
_BLOCK = 65_536
# Inverse strength of the penalty: weak, there are some 40 columns and over 100,000 rows.
_C = 0.3


def session(model: bytes) -> ort.InferenceSession:
    """A session on one thread: two threads may change the last digits of tree scores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def features(flights: pd.DataFrame) -> Features:
    """Every named feature of some flights, as the correct graph computes it, each (n,)."""
    drawing, reading = Drawing(), Reading()
    draw_features(drawing, reading)
    codes = schema().names("onehot")
    outputs = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name in codes else TensorProto.FLOAT, ["N"]
        )
        for name in reading.features()
    ]
    model = written(drawing, reading, cutoff="", fitted=(), outputs=outputs)
    prefix = session(model.SerializeToString())
    blocks = [
        prefix.run(list(reading.features()), columns(flights.iloc[at : at + _BLOCK]))
        for at in range(0, len(flights), _BLOCK)
    ]
    return {
        name: np.concatenate([b[i] for b in blocks]) for i, name in enumerate(reading.features())
    }


def leak(flights: pd.DataFrame, given: Features) -> Features:
    """Features as a training table had them whose as-of join used the departure, not the question.

    "The carrier's newest departure at that time" is then the flight itself: recent_delay_carrier
    becomes the flight's own delay, known only after it left. A served request carries the right
    value, which knows nothing of it.
    """
    own = flights["dep_delay"].to_numpy().astype(np.float32)
    return {**given, "recent_delay_carrier": own}


def fit_logistic(given: Features, label: Floats) -> Logistic:
    """Fits the logistic scorer.

    Args:
      given: features by name, each (n,).
      label: 0 or 1, (n,).
    """
    numbers = schema().names("number")
    raw = np.column_stack([given[n].astype(np.float64) for n in numbers])
    mean = rounded(np.nanmean(raw, axis=0))
    filled = np.where(np.isnan(raw), mean, raw)
    deviation = rounded(filled.std(axis=0))
    parts = [(filled - mean) / deviation]
    names = list(numbers)
    for feature in schema().names("onehot"):
        values = np.array(onehot_values(feature))
        parts.append((given[feature][:, None] == values).astype(np.float64))
        names += [f"{feature}={v}" for v in values]
    # Newton's method converges to the last digits; lbfgs stops wherever its tolerance says.
    model = LogisticRegression(C=_C, solver="newton-cholesky", tol=1e-10, max_iter=100)
    model.fit(np.hstack(parts), label)
    return Logistic(
        mean=dict(zip(numbers, mean.tolist(), strict=True)),
        deviation=dict(zip(numbers, deviation.tolist(), strict=True)),
        weight=dict(zip(names, rounded(model.coef_[0]).tolist(), strict=True)),
        intercept=float(rounded(model.intercept_)[0]),
    )


def fit_trees(
    given: Features, label: Floats, fitted: Logistic, rng: np.random.Generator
) -> onnx.NodeProto:
    """Fits gradient-boosted trees on a random part of the rows and converts them.

    Args:
      given: features by name, each (n,).
      label: 0 or 1, (n,).
      fitted: its means fill what is missing.
      rng: draws the rows and the trees' seed.

    Returns:
      skl2onnx's TreeEnsembleClassifier node; columns are the number features, then the codes.
    """
    rows = np.sort(rng.choice(len(label), min(TREE_ROWS, len(label)), replace=False))
    matrix = _filled({name: values[rows] for name, values in given.items()}, fitted, Reading())
    trees = GradientBoostingClassifier(
        n_estimators=TREES, max_depth=4, random_state=int(rng.integers(2**31))
    )
    trees.fit(matrix, label[rows])
    return _ensemble(trees, matrix)


def fit_forest(
    given: Features, label: Floats, fitted: Logistic, reading: Reading
) -> onnx.NodeProto:
    """Fits a small random forest, whose label is the class that most of its votes go to.

    Args:
      given: features by name, each (n,).
      label: 0 or 1, (n,).
      fitted: its means fill what is missing.
      reading: names the features that it uses.

    Returns:
      As `fit_trees`.
    """
    matrix = _filled(given, fitted, reading)
    # On one thread, so that the trees come in one order.
    forest = RandomForestClassifier(
        n_estimators=FOREST_TREES, max_depth=5, min_samples_leaf=50, random_state=0, n_jobs=1
    )
    forest.fit(matrix, label)
    return _ensemble(forest, matrix)


def _filled(given: Features, fitted: Logistic, reading: Reading) -> npt.NDArray[np.float32]:
    """Number features with NaN replaced by training means, then the codes, (n, k)."""
    parts = []
    for name in reading.entering("number"):
        column = given[name].astype(np.float32)
        parts.append(np.where(np.isnan(column), np.float32(fitted.mean[name]), column))
    parts += [given[name].astype(np.float32) for name in reading.entering("onehot")]
    return np.column_stack(parts)


def _ensemble(
    trees: GradientBoostingClassifier | RandomForestClassifier, matrix: npt.NDArray[np.float32]
) -> onnx.NodeProto:
    """skl2onnx's node for fitted trees."""
    converted = to_onnx(
        trees, matrix[:1], target_opset=OPSETS, options={id(trees): {"zipmap": False}}
    )
    ensemble = onnx.NodeProto()
    ensemble.CopyFrom(
        next(n for n in converted.graph.node if n.op_type == "TreeEnsembleClassifier")
    )
    return ensemble


def rounded(values: npt.ArrayLike) -> Floats:
    """Values to `DIGITS` significant digits."""
    given = np.asarray(values, dtype=np.float64)
    return np.array([float(f"{v:.{DIGITS}g}") for v in given.ravel()]).reshape(given.shape)
