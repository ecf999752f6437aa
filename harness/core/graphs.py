"""A model's graph as plain values: what computes what, from which constants.

Only digests and short texts of constants and attributes are kept: enough to say that two graphs compute
the same thing and, where they do not, which number differs; never the weights themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute of an operator."""

    name: str
    """As ONNX calls it."""
    text: str
    """Its value, shortened for people."""
    exact: str
    """Digest of the value: equal digests, equal values."""
    loose: str
    """Digest of what a retrain leaves alone: type and length of weights, the value of all else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """An initialiser, or what a Constant node holds."""

    name: str
    """The tensor's name."""
    text: str
    """Type, shape and, of a few numbers, the numbers."""
    exact: str
    """Digest of type, shape and values."""
    loose: str
    """Digest of type and shape; of a few whole numbers (axes, shapes) the values, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator of the main graph."""

    op: str
    """Operator, with its domain unless that is ONNX's own: MatMul, ai.onnx.ml.Scaler."""
    inputs: tuple[str, ...]
    """Tensor names; "" = an optional input that is left out."""
    outputs: tuple[str, ...]
    """Tensor names; "" = an output that is left out."""
    captures: tuple[str, ...] = ()
    """Outer tensors that its bodies read, in the order of their first use."""
    attributes: tuple[Attribute, ...] = ()
    """Sorted by name; a body is an attribute whose digests cover its nodes."""
    name: str = ""
    """The node's own name; may be empty, need not be unique."""
    since: str = ""
    """Version of its domain since which the operator is defined as here; "" = not known."""
    _places: dict[str, tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def places(self, tensor: str) -> tuple[int, ...]:
        """Where among its inputs, and after them its captures, it reads a tensor."""
        if not self._places:
            # Once for all of them: an operator may join many thousands.
            found: dict[str, list[int]] = {}
            for place, name in enumerate((*self.inputs, *self.captures)):
                found.setdefault(name, []).append(place)
            self._places.update({name: tuple(places) for name, places in found.items()})
        return self._places.get(tensor, ())

    def sources(self) -> tuple[str, ...]:
        """Every tensor it reads."""
        return (*(i for i in self.inputs if i), *self.captures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The main graph of one version, nodes in topological order."""

    inputs: tuple[str, ...]
    """Names of what callers feed."""
    outputs: tuple[str, ...]
    """Names of what it returns."""
    nodes: tuple[Node, ...]
    """Operators; Constant nodes are `constants`."""
    constants: tuple[Constant, ...] = ()
    """Everything that neither a caller nor a node provides."""
    random: tuple[tuple[str, str], ...] = ()
    """(tensor, `operator → what it makes`) of all that is computed from a random operator."""
    coarse: frozenset[str] = frozenset()
    """float64 tensors that float32 arithmetic is before: they carry float32's digits."""
    opsets: tuple[tuple[str, str], ...] = ()
    """(domain, version) of the operators that it may use; () = not known."""
    exact: frozenset[str] = frozenset()
    """Tensors, outputs included, that the graph shows nothing to round; nothing is known of the others."""
    handed_on: frozenset[str] = frozenset()
    """As `ModelGraph.handed_on`."""
    smooth: frozenset[str] = frozenset()
    """As `ModelGraph.smooth`."""
    _producers: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _consumers: dict[str, list[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Indexes who makes and who reads each tensor."""
        for place, node in enumerate(self.nodes):
            for name in node.outputs:
                if name:
                    self._producers[name] = place
            for name in dict.fromkeys(node.sources()):
                self._consumers.setdefault(name, []).append(place)

    def producer(self, tensor: str) -> Node | None:
        """The node that makes a tensor; None for inputs and constants."""
        place = self._producers.get(tensor)
        return None if place is None else self.nodes[place]

    def place(self, tensor: str) -> int:
        """Index of the node that makes a tensor; −1 for inputs and constants."""
        return self._producers.get(tensor, -1)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """Nodes that read a tensor, in topological order."""
        return tuple(self.nodes[place] for place in self._consumers.get(tensor, ()))

    def downstream_of(self, tensor: str) -> frozenset[str]:
        """A tensor and everything that is computed from it."""
        found = {tensor}
        for node in self.nodes:
            if not found.isdisjoint(node.sources()):
                found.update(filter(None, node.outputs))
        return frozenset(found)

    def is_read_once(self, tensor: str) -> bool:
        """Whether one node and no other reads a tensor."""
        return len(self._consumers.get(tensor, ())) == 1

    def computed(self) -> tuple[str, ...]:
        """Every tensor that a node makes, in topological order."""
        return tuple(name for node in self.nodes for name in node.outputs if name)

    def observable(self) -> tuple[str, ...]:
        """Every tensor that a node makes, and the outputs that are mere constants."""
        held = {constant.name for constant in self.constants}
        return (*self.computed(), *(name for name in self.outputs if name in held))
