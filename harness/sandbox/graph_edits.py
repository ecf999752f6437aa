"""Copies of a model for looking inside: branches laid open, tensors returned, tensors fed. In the child.

Nothing here needs shapes: an output that is only a name is enough for onnxruntime, also for operators
that ONNX's own shape inference does not know, and a patched tensor's type is what onnxruntime says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.sandbox.graph_bodies import bodies

if TYPE_CHECKING:
    import onnx

    from harness.sandbox.child.external import Files

PATCH_SUFFIX = "#patched"
"""Input that takes the place of a computed tensor: `t#patched`."""
SKETCH_SUFFIX = "#sketch"
"""Smallest, largest, length, and up to SAMPLE elements of a tensor, as one vector: `t#sketch`."""
SAMPLE = 64
_SEQUENCE = "seq("
_SLICE_WITH_STEPS = 10
_IDENTITY_OF_SEQUENCES = 14
_END = 2**62
_FLOATS = {"tensor(float)": "FLOAT", "tensor(double)": "DOUBLE", "tensor(float16)": "FLOAT16"}


@dataclass(frozen=True)
class Exposure:
    """What a copy returns besides the model's outputs."""

    exposed: list[str]
    """Tensors that it returns, by their own names."""
    cast: list[str]
    """Of these: as float32, because numpy has no type for them."""
    sketched: list[str]
    """Of these: as sketches."""
    skipped: list[list[str]]
    """[tensor, why] of those that cannot be returned."""


def flattened(model: onnx.ModelProto, taken: Mapping[str, bool]) -> list[list[str]]:
    """Puts the branch that an If takes in its place, wherever it is known.

    Args:
      model: changed in place; tensors of a branch get the prefix `output.then.` or `output.else.`.
      taken: first output of an If → the value of its condition. Conditions that are constants are
        known without it. Branches that come to light are laid open in turn.

    Returns:
      [first output, which branch and how large] of every branch that was not taken.
    """
    graph = model.graph
    left: list[list[str]] = []
    place = 0
    while place < len(graph.node):
        node = graph.node[place]
        condition = _condition(graph, node, taken) if is_if(node) else None
        if condition is None:
            place += 1
            continue
        laid = _laid_open(model, node, condition=condition)
        nodes = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes[:place], *laid, *nodes[place + 1 :]])
        word = "else" if condition else "then"
        other = next(a.g for a in node.attribute if a.name == f"{word}_branch")
        left.append([node.output[0], f"{word} branch (nodes: {_nodes_in(other):,})"])
    return left


def _nodes_in(graph: onnx.GraphProto) -> int:
    """Nodes of a graph, with those of their bodies."""
    return sum(1 + sum(_nodes_in(body) for body in bodies(node)) for node in graph.node)


def is_if(node: onnx.NodeProto) -> bool:
    """Whether a node is ONNX's If."""
    return node.op_type == "If" and node.domain in ("", "ai.onnx")


def branches(model: onnx.ModelProto) -> list[list[str]]:
    """[first output, condition] of every If of the main graph that is still closed."""
    return [[n.output[0], n.input[0]] for n in model.graph.node if is_if(n)]


def closed(model: onnx.ModelProto) -> list[list[str]]:
    """[operator, first output] of every node with a body that cannot be looked into."""
    return [
        [n.op_type, n.output[0]]
        for n in model.graph.node
        if any(True for _ in bodies(n)) and not is_if(n)
    ]


def patched(model: onnx.ModelProto, tensors: Sequence[str], files: Files) -> list[str]:
    """Lets callers feed computed tensors: whoever read `t` now reads the new input `t#patched`.

    Args:
      model: changed in place.
      tensors: computed tensors and sequences of the main graph.
      files: external data.

    Returns:
      Those that can be fed: no maps and no optionals.
    """
    import onnx

    from harness.sandbox.child import nested

    computed = {o for n in model.graph.node for o in n.output if o}
    wanted = [t for t in tensors if t in computed]
    if not wanted:
        return []
    outputs = {v.name for v in model.graph.output}
    before = len(model.graph.output)
    model.graph.output.extend(onnx.ValueInfoProto(name=t) for t in wanted if t not in outputs)
    types = output_types(model, files)
    del model.graph.output[before:]
    to = {}
    for name in wanted:
        listed = types[name].startswith(_SEQUENCE)
        kind = onnx_type(nested.leaf_kind(types[name]) if listed else types[name])
        if kind is None:
            continue
        to[name] = name + PATCH_SUFFIX
        made = (
            onnx.helper.make_tensor_sequence_value_info
            if listed
            else onnx.helper.make_tensor_value_info
        )
        model.graph.input.append(made(to[name], kind, None))
    for node in model.graph.node:
        _renamed(node, to)
    return list(to)


def exposed(
    model: onnx.ModelProto,
    tensors: Sequence[str] | None,
    files: Files,
    *,
    sketch: bool,
    by_rows: bool = False,
) -> Exposure:
    """Lets the model return intermediate tensors, and outputs of low precision as float32.

    Args:
      model: changed in place.
      tensors: which; None = every tensor of the main graph.
      files: external data.
      sketch: floats as sketches.
      by_rows: leave out sequences and optionals, which have no row per input row, and maps, whose class
        names do not come with features: two that hold other classes could look alike.
    """
    import onnx

    from harness.sandbox.child import nested, sessions

    computed = intermediate_names(model)
    known = set(computed)
    outputs = [v.name for v in model.graph.output]
    wanted = [*computed, *outputs] if tensors is None else list(dict.fromkeys(tensors))
    skipped = [
        [name, "is no tensor that the main graph computes"]
        for name in wanted
        if name not in known and name not in outputs
    ]
    added = [name for name in wanted if name in known]
    if not wanted:
        return Exposure(exposed=[], cast=[], sketched=[], skipped=[])
    before = len(model.graph.output)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
    types = output_types(model, files)
    # Outputs of the model are there already, but not all of them can be read as they are.
    added += [
        name
        for name in wanted
        if name in outputs and name not in known and not sessions.readable(types[name])
    ]
    del model.graph.output[before:]
    found = Exposure(exposed=[], cast=[], sketched=[], skipped=skipped)
    for name in added:
        kind = types[name]
        if sketch and kind in _FLOATS:
            model.graph.output.append(onnx.ValueInfoProto(name=_sketch(model, name, kind)))
            found.sketched.append(name)
        elif by_rows and kind in sessions.MAPS:
            skipped.append([name, f"is a {kind}, whose classes may come in another order"])
            continue
        elif sessions.readable(kind) and not (by_rows and nested.leaf_kind(kind)):
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        elif kind.startswith("tensor("):
            target = name + sessions.CAST_SUFFIX
            cast = onnx.helper.make_node("Cast", [name], [target], to=onnx.TensorProto.FLOAT)
            model.graph.node.append(cast)
            model.graph.output.append(onnx.ValueInfoProto(name=target))
            found.cast.append(name)
        else:
            skipped.append([name, f"is a {kind}"])
            continue
        found.exposed.append(name)
    if found.cast or found.sketched:
        output_types(model, files)  # raises when an operator that was added does not fit the opset
    return found


def intermediate_names(model: onnx.ModelProto) -> list[str]:
    """What the main graph computes on the way, in topological order.

    ONNX requires nodes to be sorted. Tensors inside the bodies of If, Loop and Scan are no tensors of
    the main graph and cannot be returned.
    """
    ends = {v.name for v in (*model.graph.input, *model.graph.output)}
    return [name for node in model.graph.node for name in node.output if name and name not in ends]


def described_outputs(model: onnx.ModelProto, files: Files) -> dict[str, Any]:
    """Output → what onnxruntime infers of its type and shape; raises when the model does not load."""
    from harness.sandbox.child import sessions

    session = sessions.open_session(model.SerializeToString(), files, optimise=False)
    return {o.name: o for o in session.get_outputs()}


def output_types(model: onnx.ModelProto, files: Files) -> dict[str, str]:
    """Output → type, as `described_outputs`."""
    return {name: about.type for name, about in described_outputs(model, files).items()}


def onnx_type(kind: str) -> int | None:
    """Onnxruntime's `tensor(float)` as ONNX's number; None for what is no plain tensor."""
    import onnx

    names = {
        "float": "FLOAT", "double": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16",
        "bool": "BOOL", "string": "STRING",
        **{f"{s}int{b}": f"{s.upper()}INT{b}" for s in ("", "u") for b in (8, 16, 32, 64)},
    }  # fmt: skip
    name = names.get(kind.removeprefix("tensor(").removesuffix(")"))
    return None if name is None else onnx.TensorProto.DataType.Value(name)


def _condition(
    graph: onnx.GraphProto, node: onnx.NodeProto, taken: Mapping[str, bool]
) -> bool | None:
    if node.output[0] in taken:
        return taken[node.output[0]]
    name = node.input[0]
    for tensor in graph.initializer:
        if tensor.name == name:
            return _as_bool(tensor)
    for other in graph.node:
        if other.op_type == "Constant" and name in other.output:
            return _as_bool(other.attribute[0].t)
    return None


def _as_bool(tensor: onnx.TensorProto) -> bool:
    import onnx

    return bool(onnx.numpy_helper.to_array(tensor).any())


def _laid_open(model: onnx.ModelProto, node: onnx.NodeProto, *, condition: bool) -> list[Any]:
    """The nodes of the branch, renamed, and an Identity for each output of the If."""
    import onnx

    graph = model.graph

    word = "then" if condition else "else"
    branch = next(a.g for a in node.attribute if a.name == f"{word}_branch")
    prefix = f"{node.output[0]}.{word}."
    local = {t.name for t in branch.initializer} | {o for n in branch.node for o in n.output if o}
    to = {name: prefix + name for name in local}
    if _opset(model) < _IDENTITY_OF_SEQUENCES:
        # A sequence cannot be copied there, so what makes it makes the output itself.
        ends = {a.name: b for a, b in zip(branch.output, node.output, strict=False) if b}
        made = {o for n in branch.node if not is_if(n) for o in n.output}
        to |= {inside: outside for inside, outside in ends.items() if inside in made}
    for tensor in branch.initializer:
        constant = graph.initializer.add()
        constant.CopyFrom(tensor)
        constant.name = to[tensor.name]
    laid = []
    for inner in branch.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        _renamed(copy, to)
        copy.output[:] = [to.get(o, o) for o in copy.output]
        laid.append(copy)
    for inside, outside in zip(branch.output, node.output, strict=False):
        if outside and to.get(inside.name) != outside:
            source = to.get(inside.name, inside.name)
            laid.append(onnx.helper.make_node("Identity", [source], [outside]))
    return laid


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _renamed(node: onnx.NodeProto, to: Mapping[str, str]) -> None:
    """What a node and its bodies read, under other names; what a body defines itself hides them."""
    node.input[:] = [to.get(i, i) for i in node.input]
    for body in bodies(node):
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {o for n in body.node for o in n.output}
        seen = {a: b for a, b in to.items() if a not in own}
        for inner in body.node:
            _renamed(inner, seen)
        for output in body.output:
            output.name = seen.get(output.name, output.name)


def _sketch(model: onnx.ModelProto, tensor: str, kind: str) -> str:
    """Adds the operators of a sketch; returns what they make.

    Without axes every reduction is over everything, in all opsets alike.
    """
    import onnx

    helper, graph = onnx.helper, model.graph
    half = kind == "tensor(float16)"
    target = tensor + SKETCH_SUFFIX
    base = f"{target}."
    constants = {"flat": [-1], "first": [0], "end": [_END], "few": [SAMPLE], "one": [1]}
    shared = {name: f"{SKETCH_SUFFIX}.{name}" for name in constants}
    if not graph.initializer or graph.initializer[-1].name != shared["one"]:
        graph.initializer.extend(
            helper.make_tensor(shared[name], onnx.TensorProto.INT64, [1], value)
            for name, value in constants.items()
        )
    source = tensor
    if half:
        source = f"{base}float"
        graph.node.append(helper.make_node("Cast", [tensor], [source], to=onnx.TensorProto.FLOAT))
    flat = f"{base}row"
    graph.node.append(helper.make_node("Reshape", [source, shared["flat"]], [flat]))
    parts = []
    for op in ("ReduceMin", "ReduceMax", "ReduceL2"):
        parts.append(f"{base}{op}")
        graph.node.append(helper.make_node(op, [flat], [parts[-1]], keepdims=1))
    if _opset(model) >= _SLICE_WITH_STEPS:
        size, share, step, sample = (f"{base}{n}" for n in ("size", "share", "step", "sample"))
        graph.node.extend(
            [
                helper.make_node("Shape", [flat], [size]),
                helper.make_node("Div", [size, shared["few"]], [share]),
                helper.make_node("Add", [share, shared["one"]], [step]),
                helper.make_node(
                    "Slice",
                    [flat, shared["first"], shared["end"], shared["first"], step],
                    [sample],
                ),
            ]
        )
        parts.append(sample)
    graph.node.append(helper.make_node("Concat", parts, [target], axis=0))
    return target
