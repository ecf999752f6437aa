"""The attributes of operators, whether a model spells their defaults out or leaves them out. Runs in a sandboxed child."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_Key = tuple[str, str]
_NEW_MEANING = frozenset(
    [
        ("DFT", "axis"),
        ("Resize", "coordinate_transformation_mode"),
        ("RoiAlign", "coordinate_transformation_mode"),
    ]
)
"""Attributes whose default is not what versions of the operator without them do."""
_SOFTMAXES = frozenset(["Softmax", "LogSoftmax", "Hardmax"])
"""Until version 13 they take all axes from `axis` on for one, and since then `axis` alone; the last one is both."""
_AXIS_ALONE = 13
_AXIS_AS_INPUT = 20
"""DFT's: left out, it is the last but one, and before that version it was the attribute, 1 where it was left out."""


class Defaults:
    """What operators take an attribute to be that is left out, in the versions that a model imports.

    onnxruntime writes defaults out when it saves a model. A default is told where the newest version of
    the operator has that attribute and left out where it has not, so that versions which differ by
    nothing else are told alike. One that is not the same in all versions (Softmax's axis) is told only
    for those that have it. Where the same attributes mean something else in another version, it is told
    what they mean.

    Args:
      model: its imports count.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        found: dict[str, set[int]] = {}
        for opset in model.opset_import:
            found.setdefault(_domain(opset.domain), set()).add(opset.version)
        self._versions = {domain: min(v) for domain, v in found.items() if len(v) == 1}
        self._newest: dict[str, int] = {}
        self._schemas: dict[_Key, list[onnx.defs.OpSchema]] = {}
        for schema in onnx.defs.get_all_schemas_with_history():
            self._schemas.setdefault((schema.domain, schema.name), []).append(schema)
            newest = max(schema.since_version, self._newest.get(schema.domain, 0))
            self._newest[schema.domain] = newest
        self._known: dict[_Key, tuple[_Attributes, _Attributes]] = {}

    def attributes(self, node: onnx.NodeProto) -> list[onnx.AttributeProto]:
        """A node's attributes by name, those left out with their defaults.

        Of an operator, or a version of one, that ONNX does not know: as they are.
        """
        key = (_domain(node.domain), node.op_type)
        if key not in self._known:
            self._known[key] = self._defaults(key)
        told, untold = self._known[key]
        own = {a.name: a for a in node.attribute}
        kept = [a for a in node.attribute if not (a.name in untold and _same(a, untold[a.name]))]
        left_out = [told[n] for n in told if n not in own]
        meant = self._meaning(node, {a.name: a for a in (*left_out, *kept)}) if told else []
        return sorted([*kept, *left_out, *meant], key=lambda a: a.name)

    def since(self, node: onnx.NodeProto) -> str:
        """Version of its domain since which an operator is defined as in the model; "" where that is not known."""
        key = (_domain(node.domain), node.op_type)
        version = self._versions.get(key[0], 0)
        if version > self._newest.get(key[0], 0):
            return ""
        known = (s.since_version for s in self._schemas.get(key, ()))
        return str(max((v for v in known if v <= version), default=""))

    def _meaning(self, node: onnx.NodeProto, given: _Attributes) -> list[onnx.AttributeProto]:
        """What the attributes of operators of ONNX's own mean, where the version decides it."""
        import onnx

        version = self._versions[_domain(node.domain)]
        if _domain(node.domain):
            return []
        if node.op_type in _SOFTMAXES:
            alone = version >= _AXIS_ALONE or given["axis"].i == -1
            means = (
                "it alone, as since opset 13" if alone else "it and all after it, as until opset 12"
            )
            return [onnx.helper.make_attribute("meaning of axis", means)]
        if node.op_type == "DFT" and version >= _AXIS_AS_INPUT and not any(node.input[2:3]):
            return [onnx.helper.make_attribute("axis", -2)]
        return []

    def _defaults(self, key: _Key) -> tuple[_Attributes, _Attributes]:
        """Defaults that are told, and those that are not."""
        schemas = sorted(self._schemas.get(key, ()), key=lambda s: s.since_version)
        version = self._versions.get(key[0], 0)
        ours = [s for s in schemas if s.since_version <= version]
        if not ours or version > self._newest[key[0]] or ours[-1].deprecated:
            return {}, {}
        own, newest = _of(ours[-1]), _of(schemas[-1])
        every = {n: a.default_value for s in schemas for n, a in s.attributes.items()}
        agreed = {
            n: d
            for n, d in every.items()
            if (key[1], n) not in _NEW_MEANING
            and all(_same(s.attributes[n].default_value, d) for s in schemas if n in s.attributes)
        }
        told = {n: d for n, d in newest.items() if n in agreed}
        told |= {n: d for n, d in own.items() if n not in agreed}
        return told, {n: d for n, d in own.items() if n not in told}


_Attributes = dict[str, "onnx.AttributeProto"]


def _domain(given: str) -> str:
    return "" if given == "ai.onnx" else given


def _of(schema: onnx.defs.OpSchema) -> _Attributes:
    """Attributes that have a default; that of one without has no type."""
    return {n: a.default_value for n, a in schema.attributes.items() if a.default_value.type}


def _same(one: onnx.AttributeProto, other: onnx.AttributeProto) -> bool:
    """Whether both hold the same, number for number."""
    import onnx

    if one.type != other.type or one.ref_attr_name or other.ref_attr_name:
        return False
    if not one.type:
        return True
    value = onnx.helper.get_attribute_value
    return repr(value(one)) == repr(value(other))
