"""Models with the same answers to the last bit, whose constants are split, or scaled before and after."""

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Powers of two: scaling by them rounds nothing."""
_SCALED = {"Scaler": ("scale",), "LabelEncoder": ("values_floats", "default_float")}


def regrouped(model: ModelProto, seed: int, often: float = 0.6) -> ModelProto:
    """×c as ×fc ×1/f, a weight or a table of words scaled and scaled back, x + c as (fx + fc) × 1/f.

    Args:
      model: of float32; what a rewritten node makes keeps its name.
      seed: of what is rewritten, and by which factors.
      often: chance that a node that can be is rewritten.
    """
    rng = np.random.default_rng(seed)
    new = ModelProto()
    new.CopyFrom(model)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes: list[NodeProto] = []
    for place, node in enumerate(model.graph.node):
        step = NodeProto()
        step.CopyFrom(node)
        nodes.append(step)
        slots = [i for i, name in enumerate(node.input) if name in held]
        whole = node.op_type in ("Mul", "MatMul", "Add", "Sub", "Max", "Conv") and len(slots) > 0
        if not (whole or node.op_type in _SCALED) or rng.random() >= often:
            continue
        factor = np.float32(rng.choice(FACTORS))
        names = {"factor": factor, "back": 1 / factor}
        constants = {f"{kind}{place}": np.float32([v]) for kind, v in names.items()}
        for slot in slots if whole else ():
            step.input[slot] = f"{node.input[slot]}.times{place}"
            constants[step.input[slot]] = (held[node.input[slot]] * factor).astype(np.float32)
        if node.op_type in ("Add", "Sub", "Max"):
            for slot in set(range(len(node.input))) - set(slots):
                scaled = f"scaled{place}.{slot}"
                mul = helper.make_node("Mul", [node.input[slot], f"factor{place}"], [scaled])
                nodes.insert(-1, mul)
                step.input[slot] = scaled
        for attribute in step.attribute:
            if attribute.name in _SCALED.get(node.op_type, ()):
                attribute.CopyFrom(_times(attribute, float(factor)))
        step.output[0] = f"before{place}"
        nodes.append(helper.make_node("Mul", [step.output[0], f"back{place}"], list(node.output)))
        new.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    return new


def _times(attribute: AttributeProto, factor: float) -> AttributeProto:
    value = helper.get_attribute_value(attribute)
    more = [v * factor for v in value] if isinstance(value, list) else value * factor
    return helper.make_attribute(attribute.name, more)
