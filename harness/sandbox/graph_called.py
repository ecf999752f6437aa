"""What a node that calls a function of its model runs: a digest of that function and of all that it calls.

Runs in a sandboxed child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from harness.sandbox.graph_bodies import bodies, every

if TYPE_CHECKING:
    import onnx

_Key = tuple[str, str]


class CalledFunctions:
    """The functions of a model, by what their calls come to.

    Args:
      model: parsed.
      external: the bytes that a tensor with external data refers to.
    """

    def __init__(
        self, model: onnx.ModelProto, external: Callable[[onnx.TensorProto], bytes]
    ) -> None:
        self._external = external
        # Overloads go by one name; a call of any stands for all of them.
        self._bodies: dict[_Key, list[onnx.FunctionProto]] = {}
        for function in model.functions:
            self._bodies.setdefault((function.domain, function.name), []).append(function)
        self._own: dict[_Key, tuple[str, list[_Key]]] = {}
        self._whole: dict[_Key, str] = {}

    def digest(self, node: onnx.NodeProto) -> str:
        """Of the function that a node calls, by name, content and all that is called below; "" = none."""
        key = (node.domain, node.op_type)
        if key not in self._bodies:
            return ""
        if key not in self._whole:
            self._whole[key] = self._reached(key)
        return f"{self._whole[key]}{node.overload}"

    def operators(self, node: onnx.NodeProto) -> int:
        """How many nodes the called function has of its own."""
        return sum(len(f.node) for f in self._bodies.get((node.domain, node.op_type), ()))

    def _reached(self, key: _Key) -> str:
        # A loop: a chain of calls is as long as one likes, our stack is not.
        seen, waiting = {key}, [key]
        while waiting:
            fresh = [k for k in self._function(waiting.pop())[1] if k not in seen]
            seen |= set(fresh)
            waiting += dict.fromkeys(fresh)
        parts = [f"{key}", *(f"{k} {self._function(k)[0]}" for k in sorted(seen))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _function(self, key: _Key) -> tuple[str, list[_Key]]:
        """(digest of its own content, functions that it calls)."""
        if key not in self._own:
            content, called = hashlib.sha256(), []
            for body in self._bodies[key]:
                content.update(_measured(body.SerializeToString(deterministic=True)))
                for node in every(body.node):
                    called += [k] if (k := (node.domain, node.op_type)) in self._bodies else []
                    for tensor in _kept_elsewhere(node):
                        content.update(_measured(self._external(tensor)))
            self._own[key] = (content.hexdigest(), called)
        return self._own[key]


def _measured(data: bytes) -> bytes:
    """The bytes with their length before them: no others are the same one after the other."""
    return len(data).to_bytes(8, "little") + data


def _kept_elsewhere(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Constants among a node's attributes and in its bodies whose bytes lie in another file."""
    found = [a.t for a in node.attribute if a.HasField("t")]
    found += [t for body in bodies(node) for t in body.initializer]
    return (t for t in found if t.external_data)
