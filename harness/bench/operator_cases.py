"""ONNX's own single-operator test cases as small models that can be fed with arrays.

What a request cannot carry is put into the graph: a value of low precision becomes an initialiser, a
sequence is built from arrays, an optional is wrapped around one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.tensors import Array, Tensors

if TYPE_CHECKING:
    import onnx

_PLAIN = frozenset("?bhilqBHILQefd")
"""Character codes of numpy types that a request can carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCase:
    """One operator, or one that ONNX has expanded into simpler ones."""

    name: str
    """As ONNX calls it."""
    model: onnx.ModelProto
    """Takes arrays only."""
    feeds: Tensors
    """Whole tensors, by input."""


def operator_cases() -> Iterator[OperatorCase]:
    """Every case of the installed `onnx`, in its order."""
    with warnings.catch_warnings():
        # Cases compute their expected values with numpy; overflows there are none of ours.
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        for case in collect_testcases(None):
            if case.model is not None and case.data_sets:
                yield _case(case.name, case.model, case.data_sets[0][0])


def _case(name: str, given: onnx.ModelProto, values: Sequence[Any]) -> OperatorCase:
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(given)
    declared = list(model.graph.input)
    nodes = list(model.graph.node)
    del model.graph.input[:]
    del model.graph.node[:]
    feeds: Tensors = {}
    for info, value in zip(declared, values, strict=False):
        _provide(model, info.name, info.type, value, feeds)
    model.graph.node.extend(nodes)
    return OperatorCase(name=name, model=model, feeds=feeds)


def _provide(
    model: onnx.ModelProto,
    name: str,
    kind: onnx.TypeProto,
    value: Any,  # noqa: ANN401 - as ONNX has them
    feeds: Tensors,
) -> None:
    """Lets a tensor of this name exist: as an input, an initialiser, or made by a node."""
    import onnx

    graph = model.graph
    if kind.HasField("optional_type"):
        inner = kind.optional_type.elem_type
        held = [] if value is None else [f"{name}_held"]
        for part in held:
            _provide(model, part, inner, value, feeds)
        graph.node.append(onnx.helper.make_node("Optional", held, [name]))
        if not held:
            graph.node[-1].attribute.append(onnx.helper.make_attribute("type", inner))
    elif kind.HasField("sequence_type"):
        inner = kind.sequence_type.elem_type
        parts = [f"{name}_{place}" for place in range(len(value))]
        for part, element in zip(parts, value, strict=True):
            _provide(model, part, inner, element, feeds)
        graph.node.append(_sequence(parts, name, inner))
    elif isinstance(value, onnx.TensorProto):
        graph.initializer.add().CopyFrom(value)
        graph.initializer[-1].name = name
    elif (array := _fed(np.asarray(value))) is not None:
        feeds[name] = array
        graph.input.append(onnx.helper.make_value_info(name, kind))
    else:
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))


def _sequence(parts: Sequence[str], name: str, inner: onnx.TypeProto) -> onnx.NodeProto:
    import onnx

    if parts:
        return onnx.helper.make_node("SequenceConstruct", list(parts), [name])
    return onnx.helper.make_node("SequenceEmpty", [], [name], dtype=inner.tensor_type.elem_type)


def _fed(array: Array) -> Array | None:
    """A value as a request carries it; None when none can."""
    if array.dtype.kind in "OUS":
        words = [w.decode() if isinstance(w, bytes) else str(w) for w in array.reshape(-1)]
        return np.array(words, dtype=object).reshape(array.shape)
    return array if array.dtype.char in _PLAIN else None
