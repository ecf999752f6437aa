"""Copies of a model with one attribute, operator or constant altered, to see whether the differ finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.tensors import Array, Tensors

if TYPE_CHECKING:
    import onnx

KINDS = ("attribute", "operator", "constant")
_MOST_NODES = 6
_WORDS = (
    b"constant", b"reflect", b"edge", b"wrap", b"linear", b"nearest", b"cubic", b"none", b"add", b"mul",
    b"max", b"min", b"sum", b"mean", b"reverse", b"forward", b"tanh", b"SAME_UPPER", b"SAME_LOWER",
    b"VALID", b"LEFT", b"RIGHT", b"CRD", b"DCR", b"UPPER", b"LOWER", b"asymmetric", b"half_pixel",
    b"align_corners", b"floor", b"ceil", b"round_prefer_ceil", b"zeros", b"border", b"reflection", b"avg",
)  # fmt: skip
"""What attributes that are words may be: modes, directions, reductions."""
_OPERATORS = (
    "Neg", "Abs", "Not", "Sin", "Sigmoid", "Ceil", "Sign", "BitwiseNot", "IsNaN", "StringConcat", "Sub",
    "Mul", "Max", "Less", "Greater", "Or", "And", "Xor", "Equal", "BitwiseXor", "PRelu", "Mod", "Identity",
    "Shape", "Size", "Unsqueeze", "NonZero", "Transpose", "ReduceMax", "ReduceSum", "ArgMin", "Softmax",
    "SequenceConstruct", "Sum", "Mean",
)  # fmt: skip
"""What may stand in an operator's place; which of them fits, onnxruntime says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alteration:
    """A pair of models that are the same but for one thing."""

    kind: str
    """attribute, operator or constant."""
    what: str
    """What was done, in words."""
    outputs: tuple[str, ...]
    """Outputs of the node where it was done; of a constant, of what reads it."""
    baseline: onnx.ModelProto
    """The model; what an altered constant was an input before is a constant here, too."""
    candidate: onnx.ModelProto
    """The same but for one thing."""
    feeds: Tensors
    """What both take."""


def alterations(
    model: onnx.ModelProto, feeds: Tensors, rng: np.random.Generator
) -> Iterator[Alteration]:
    """Altered copies, most likely ones first; whether they load and answer otherwise is not known.

    Args:
      model: stays as it is.
      feeds: what it takes.
      rng: chooses the node and what kind of alteration is tried first.
    """
    order = rng.permutation(len(model.graph.node))[:_MOST_NODES]
    kinds = np.roll(KINDS, int(rng.integers(len(KINDS))))
    for kind in kinds:
        for place in map(int, order):
            if not any(model.graph.node[place].output):
                continue
            match str(kind):
                case "attribute":
                    yield from _attributes(model, feeds, place)
                case "operator":
                    yield from _operators(model, feeds, place)
                case _:
                    yield from _constants(model, feeds, place)


def _altered(
    model: onnx.ModelProto, feeds: Tensors, place: int, kind: str, what: str
) -> Alteration:
    import onnx

    copies = [onnx.ModelProto(), onnx.ModelProto()]
    for copy in copies:
        copy.CopyFrom(model)
    node = model.graph.node[place]
    if node.op_type == "Constant":
        # The differ knows it as a constant: what reads it is the first to part.
        kind = "constant"
    return Alteration(
        kind=kind, what=f"{node.op_type}: {what}", outputs=_first_made(model, node),
        baseline=copies[0], candidate=copies[1], feeds=feeds,
    )  # fmt: skip


def _first_made(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[str, ...]:
    """What a node makes; of a constant or a copy, which are no tensors of their own, also its readers."""
    made = tuple(o for o in node.output if o)
    if node.op_type not in ("Constant", "Identity"):
        return made
    readers = [n for n in model.graph.node if set(made) & set(n.input)]
    return (*made, *(o for n in readers for o in _first_made(model, n)))


def _attributes(model: onnx.ModelProto, feeds: Tensors, place: int) -> Iterator[Alteration]:
    node = model.graph.node[place]
    for attribute in _given_and_possible(model, node):
        for value in _others(attribute):
            made = _altered(model, feeds, place, "attribute", attribute.name)
            target = made.candidate.graph.node[place]
            kept = [a for a in target.attribute if a.name != attribute.name]
            del target.attribute[:]
            target.attribute.extend([*kept, value])
            yield made


_UNWRITTEN = "saturate"
"""Without it some of onnxruntime's casts leave their result unwritten: whatever lay in that memory comes
back, by chance what the baseline had put there."""


def _given_and_possible(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    """Attributes that a node has, and those that it might have, with their defaults."""
    import onnx

    found = list(node.attribute)
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return found
    given = {a.name for a in found}
    for name, known in schema.attributes.items():
        if name not in given and known.default_value.name and name != "seed":
            found.append(known.default_value)
    return [a for a in found if a.name != _UNWRITTEN]


def _others(attribute: onnx.AttributeProto) -> Iterator[onnx.AttributeProto]:
    """The attribute with other values of its type."""
    import onnx

    kinds = onnx.AttributeProto
    makers: dict[int, Callable[[onnx.AttributeProto], list[Any]]] = {
        kinds.INT: lambda a: [n for n in (a.i + 1, a.i - 1, 0, 1) if n != a.i],
        kinds.FLOAT: lambda a: [a.f * 2 + 0.4, a.f / 3 - 0.4],
        kinds.STRING: lambda a: [w for w in _WORDS if w != a.s],
        kinds.INTS: lambda a: _other_lists(list(a.ints)),
        kinds.FLOATS: lambda a: [[f * 2 + 0.4 for f in a.floats]],
        kinds.STRINGS: lambda a: [list(a.strings)[::-1], [w + b"_" for w in a.strings]],
        kinds.TENSOR: lambda a: [
            onnx.numpy_helper.from_array(v) for v in _other_values(onnx.numpy_helper.to_array(a.t))
        ],
    }
    maker = makers.get(attribute.type)
    for value in maker(attribute) if maker else ():
        yield onnx.helper.make_attribute(attribute.name, value, attr_type=attribute.type)


def _other_lists(ints: list[int]) -> list[list[int]]:
    others = [ints[::-1], [n + 1 for n in ints], [n - 1 for n in ints], [1, 0, *ints[2:]]]
    return [v for v in others if v and v != ints]


def _operators(model: onnx.ModelProto, feeds: Tensors, place: int) -> Iterator[Alteration]:
    import onnx

    node = model.graph.node[place]
    if len(node.output) != 1:
        return
    inputs = [i for i in node.input if i]
    for op in _OPERATORS:
        for count in dict.fromkeys((len(inputs), min(len(inputs), 2), min(len(inputs), 1))):
            if op == node.op_type or not count:
                continue
            made = _altered(model, feeds, place, "operator", f"→ {op}")
            other = onnx.helper.make_node(op, inputs[:count], list(node.output))
            made.candidate.graph.node[place].CopyFrom(other)
            yield made


def _constants(model: onnx.ModelProto, feeds: Tensors, place: int) -> Iterator[Alteration]:
    """An input that is a constant on both sides, with another value in the candidate."""
    import onnx

    node = model.graph.node[place]
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    readers = [name for other in model.graph.node for name in other.input]
    for name in reversed(list(dict.fromkeys(node.input))):
        # What another node reads, too, would be altered in two places.
        value = feeds.get(name, held.get(name))
        if value is None or readers.count(name) > 1:
            continue
        for other in _other_values(value):
            left = {n: a for n, a in feeds.items() if n != name}
            made = _altered(model, left, place, "constant", name)
            for copy, values in ((made.baseline, value), (made.candidate, other)):
                kept = [t for t in copy.graph.initializer if t.name != name]
                inputs = [i for i in copy.graph.input if i.name != name]
                del copy.graph.initializer[:], copy.graph.input[:]
                copy.graph.initializer.extend([*kept, onnx.numpy_helper.from_array(values, name)])
                copy.graph.input.extend(inputs)
            yield made


def _other_values(values: Array) -> Iterator[Array]:
    """Other values of the same type and shape."""
    if values.dtype.kind == "O":
        yield np.array([f"{word}x" for word in values.reshape(-1)], dtype=object).reshape(
            values.shape
        )
    elif values.dtype.kind == "b":
        yield np.logical_not(values)
    elif values.size:
        flat = values.reshape(-1)
        yield flat[::-1].reshape(values.shape)
        with np.errstate(all="ignore"):
            yield (values + np.ones((), values.dtype)).astype(values.dtype)
            yield (values * 2 + 1).astype(values.dtype)
            yield (values - np.ones((), values.dtype)).astype(values.dtype)
