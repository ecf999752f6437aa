"""Tensors that differ by no more than what they are made from does, which is equal.

A tolerance is relative to a column's largest value. Where Relu leaves of a column only values near 0, rounding that is
nothing before it is large after it. Operators that never widen a difference, with the same constants on both sides,
cannot be where two graphs part. (In a net with folded batch norms, rounding in a channel that Relu nearly emptied was
told as the first divergence, before the one layer whose weights were wrong.)

Only behind steps that are fused or split differently, whose rounding differs with nothing wrong; elsewhere a difference
below a tolerance may be a changed constant's. A declared feature is never taken for equal here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from harness.core.graphs import Graph, Node
from harness.diff.graph_hashes import without_aliases
from harness.diff.graph_match import GraphMatch, Tier
from harness.diff.tensor_trace import TensorTrace

_STEADY = frozenset(
    {
        "Abs", "Clip", "Concat", "Expand", "Flatten", "Gather", "GlobalMaxPool", "LeakyRelu", "Max", "MaxPool",
        "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Squeeze",
        "Tanh", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose results differ by at most the largest difference of what they read, which is measured, too."""


def carried_on(
    graphs: tuple[Graph, Graph],
    match: GraphMatch,
    traces: Mapping[str, TensorTrace],
    divergent: Collection[str],
    inputs: Mapping[str, str],
) -> frozenset[str]:
    """Divergent tensors that merely carry on what is equal before them.

    Args:
      graphs: the baseline's and the candidate's.
      match: their pairs.
      traces: what was seen of whole tensors.
      divergent: baseline's tensors beyond their tolerance.
      inputs: baseline's input → candidate's.

    Returns:
      Baseline's names; outputs are never among them.
    """
    (old, ours), (new, theirs) = (without_aliases(graph) for graph in graphs)
    held = ({c.name: c.exact for c in old.constants}, {c.name: c.exact for c in new.constants})
    partner = {a: theirs.get(b, b) for a, b in inputs.items()}
    for pair in match.pairs:
        partner[ours.get(pair.baseline, pair.baseline)] = theirs.get(pair.candidate, pair.candidate)
    tiers = {ours.get(p.baseline, p.baseline): p.tier for p in match.pairs}
    fused = {name for name, tier in tiers.items() if tier is Tier.FUSED}
    found: set[str] = set()
    for node in old.nodes:
        for name in node.outputs:
            twin = new.producer(partner.get(name, ""))
            declared = name in old.outputs or tiers.get(name) is Tier.DECLARED
            if name not in divergent or name not in traces or declared or twin is None:
                continue
            computed = [s for s in node.sources() if s not in held[0]]
            known = [traces[s] for s in computed if s in traces]
            if (
                _same(node, twin, held, partner)
                and node.outputs.index(name) == twin.outputs.index(partner[name])
                and all(s in found or (s in fused and s not in divergent) for s in computed)
                and all(s in traces for s in computed)
                and not traces[name].unlike
                and traces[name].absolute <= max((t.absolute for t in known), default=0.0)
            ):
                found.add(name)
    return frozenset(found)


def _same(
    old: Node,
    new: Node,
    held: tuple[Mapping[str, str], Mapping[str, str]],
    partner: Mapping[str, str],
) -> bool:
    """Whether both are one steady operator on equal constants and on partners."""
    if old.op not in _STEADY or old.op != new.op or len(old.inputs) != len(new.inputs):
        return False
    reads = all(
        held[0][a] == held[1].get(b) if a in held[0] else partner.get(a, "") == b
        for a, b in zip(old.inputs, new.inputs, strict=True)
    )  # fmt: skip
    return reads and [a.exact for a in old.attributes] == [a.exact for a in new.attributes]
