"""Features with one number a row, returned as one tensor: one after the other. In the child.

What a tensor of a thousand rows costs to return is mostly that it is one more: twenty of them in one
take a third of the time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

_MAIN = ("", "ai.onnx")
_WITH_AXIS = 4
"""First opset whose Concat has to be told an axis."""
_NUMBERS = frozenset(
    f"tensor({name})"
    for name in ("float", "double", "int64", "int32", "int16", "int8", "uint8", "bool")
)


def pack(model: onnx.ModelProto, returned: Sequence[str], outputs: Mapping[str, Any]) -> None:
    """Puts tensors of one type and one row each per input row behind each other; metadata say which.

    Args:
      model: returns the tensors; changed in place.
      returned: which of its outputs may be packed.
      outputs: onnxruntime's description of each output of a version that loads.
    """
    import onnx

    from harness.sandbox.child import sessions

    graph = model.graph
    kinds = _alike(model, returned, outputs)
    packed = {f"{sessions.PACKED}.{kind}": names for kind, names in kinds.items() if names[1:]}
    gone = {name for names in packed.values() for name in names}
    for place in reversed(range(len(graph.output))):
        if graph.output[place].name in gone:
            del graph.output[place]
    for target, names in packed.items():
        graph.node.append(onnx.helper.make_node("Concat", names, [target], axis=0))
        graph.output.append(onnx.ValueInfoProto(name=target))
    for place in reversed(range(len(model.metadata_props))):
        if model.metadata_props[place].key == sessions.PACKED:
            del model.metadata_props[place]
    model.metadata_props.add(key=sessions.PACKED, value=json.dumps(packed))


def _alike(
    model: onnx.ModelProto, returned: Sequence[str], outputs: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Type → tensors of it that have as many values as an input has rows, and no other axis."""
    kinds: dict[str, list[str]] = defaultdict(list)
    if max((o.version for o in model.opset_import if o.domain in _MAIN), default=0) < _WITH_AXIS:
        return kinds
    shapes = [v.type.tensor_type.shape.dim for v in model.graph.input]
    rows = {shape[0].dim_param for shape in shapes if shape} - {""}
    for name in returned:
        kind, shape = outputs[name].type, outputs[name].shape
        if kind in _NUMBERS and len(shape) == 1 and shape[0] in rows:
            kinds[kind].append(name)
    return kinds
