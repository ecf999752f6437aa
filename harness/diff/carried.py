"""Tensors that differ by no more than what they are made from does, which is equal.

A tolerance is relative to a column's largest value. Where Relu leaves of a column only values near 0, or a residual sum
cancels, rounding that is nothing before it is large after it. Operators that never widen a difference, with the same
constants on both sides, cannot be where two graphs part. Products and sums of many terms may widen it: of these, with
the same constants, a few times what is before them, and never more than sums in another order do. (In a net with folded
batch norms, rounding in a channel that Relu nearly emptied was told as the first divergence, before the one layer whose
weights were wrong.)

Only behind steps that are fused or split differently, whose rounding differs with nothing wrong, and what both compute
alike of these; such a step's own result may differ as sums in another order do. Elsewhere a difference below a
tolerance may be a changed constant's. Neither a declared feature nor an output is ever taken for equal here, nor what
alone is before an output that differs, or before anything that differs by more than is carried on, and is computed
alike: it has its difference from there. (A folded batch norm with a wrong bias near 1000, which the next step takes
off, was rounding by its size, and the divergence was told three steps later.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from harness.core.graphs import Graph, Node
from harness.diff.distance import FLOAT_TOLERANCE, FLOOR_FACTOR
from harness.diff.graph_hashes import COMMUTATIVE, own_parts, without_aliases
from harness.diff.graph_match import GraphMatch, Tier
from harness.diff.tensor_trace import TensorTrace

_STEADY = frozenset(
    {
        "Abs", "Clip", "Concat", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "Max",
        "MaxPool", "Mean", "Min", "Neg", "Pad", "ReduceMax", "ReduceMean", "ReduceMin", "Relu", "Reshape", "Sigmoid",
        "Slice", "Softmax", "Softplus", "Split", "Squeeze", "Tanh", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose results differ by at most the largest difference of what they read, which is measured, too."""
_SUMS = frozenset({"Add", "Sub", "Sum"})
"""By at most the sum of these differences."""
_SLOPES = {"Gelu": 1.13, "HardSwish": 1.5, "Mish": 1.1}
"""By at most so many times the largest one."""
_LINEAR = frozenset(
    {
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Div",
        "Gemm",
        "MatMul",
        "Mul",
        "ReduceSum",
        "ai.onnx.ml.Scaler",
    }
)
"""By what their constants make of it: large where terms cancel."""
_BENT = frozenset({"Celu", "Elu", "Erf", "HardSigmoid", "LogSoftmax", "Selu", "Softsign"})
"""By their steepest slope, which an attribute may set."""
_TIMES = FLOOR_FACTOR
"""Times the largest relative difference before an operator of these that rounding is behind it."""
_TOLERANCES = 10.0
"""Tolerances that sums in another order may be apart: of float32, and of float64, whose tolerance is smaller."""
_OWN = 8 / 7
"""With its own rounding, which is below an eighth of any difference beyond the tolerance."""


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
    rounded: set[str] = set()
    found: set[str] = set()
    alike = _alike(old, new, held, partner)
    for node in old.nodes:
        for name in node.outputs:
            twin = new.producer(partner.get(name, ""))
            same = name in alike
            if name in traces and name not in divergent and twin is not None:
                written = tiers.get(name) is Tier.FUSED or _otherwise(node, twin, held, partner)
                if written or (same and any(s in rounded or s in found for s in node.sources())):
                    rounded.add(name)
            declared = name in old.outputs or tiers.get(name) is Tier.DECLARED
            if name not in divergent or name not in traces or declared or twin is None:
                continue
            computed = [s for s in node.sources() if s not in held[0] and s not in old.inputs]
            known = [traces[s] for s in computed if s in found or s in rounded]
            if (
                same
                and node.outputs.index(name) == twin.outputs.index(partner[name])
                and all(s in traces and (s in found or s not in divergent) for s in computed)
                and not traces[name].unlike
                and _is_carried(node.op, traces[name], known)
            ) or (
                _otherwise(node, twin, held, partner)
                and {node.op, twin.op} <= _LINEAR | _SUMS
                and traces[name].relative <= _by_order(traces[name])
                and all(s in found or s not in divergent for s in computed)
            ):
                found.add(name)
    seen = {*traces, *old.inputs, *held[0]}
    whole = {n for node in old.nodes if seen.issuperset(node.sources()) for n in node.outputs}
    return frozenset(found - _before_others(old, divergent, found, alike & whole))


def _before_others(
    old: Graph, divergent: Collection[str], found: Collection[str], alike: Collection[str]
) -> set[str]:
    """What is before something that differs, and nothing else is: that is where its difference begins to be large.

    Args:
      old: the baseline's graph, without copies.
      divergent: tensors beyond their tolerance.
      found: of these, what seems to be carried on.
      alike: what both compute by one operator on equal constants and on pairs that were all seen.
    """
    parted: set[str] = set()
    moved: set[str] = set()
    for node in old.nodes:
        behind = any(s in parted for s in node.sources())
        carries = any(s in found or s in moved for s in node.sources())
        for name in node.outputs:
            if behind:
                parted.add(name)
            elif name in divergent and name not in found:
                (moved if carries and name in alike else parted).add(name)
    waiting = list(moved)
    for name in old.outputs:
        end = old.producer(name)
        if name in divergent and end and not any(s in parted for s in end.sources()):
            waiting.append(name)
    before: set[str] = set()
    while waiting:
        maker = old.producer(waiting.pop())
        fresh = [s for s in maker.sources() if s not in before] if maker else []
        before.update(fresh)
        waiting += fresh
    return before


def _is_carried(op: str, found: TensorTrace, before: Sequence[TensorTrace]) -> bool:
    """Whether a difference is no larger than the operator makes of those before it, and the rounding of its result."""
    differences = [trace.absolute for trace in before]
    largest = max(differences, default=0.0)
    if op in _STEADY:
        return found.absolute <= largest
    if op in _SUMS:
        return found.absolute <= _OWN * sum(differences)
    if op in _SLOPES:
        return found.absolute <= _OWN * _SLOPES[op] * largest
    most = max((trace.relative for trace in before), default=0.0)
    return op in _LINEAR | _BENT and found.relative <= min(_TIMES * most, _by_order(found))


def _by_order(trace: TensorTrace) -> float:
    """Relative difference that sums in another order may have; 0 for whole numbers."""
    return _TOLERANCES * min(trace.usual, FLOAT_TOLERANCE)


def _otherwise(
    old: Node,
    new: Node,
    held: tuple[Mapping[str, str], Mapping[str, str]],
    partner: Mapping[str, str],
) -> bool:
    """Whether a step is written otherwise: another operator ends it, or what it reads has no partner."""
    computed = [s for s in old.sources() if s not in held[0]]
    theirs = {s for s in new.sources() if s not in held[1]}
    return old.op != new.op or {partner.get(s, "") for s in computed} != theirs


def _alike(
    old: Graph,
    new: Graph,
    held: tuple[Mapping[str, str], Mapping[str, str]],
    partner: Mapping[str, str],
) -> set[str]:
    """Baseline's tensors that both compute by one operator on equal constants and on partners."""
    made = ((node, name) for node in old.nodes for name in node.outputs)
    twins = ((node, name, new.producer(partner.get(name, ""))) for node, name in made)
    return {name for node, name, twin in twins if twin and _same(node, twin, held, partner)}


def _same(
    old: Node,
    new: Node,
    held: tuple[Mapping[str, str], Mapping[str, str]],
    partner: Mapping[str, str],
) -> bool:
    """Whether both are one operator on equal constants and on partners, in the order that counts."""
    if tuple(own_parts(old, exact=True)) != tuple(own_parts(new, exact=True)):
        return False
    ours = [_read(name, held[0], partner.get(name)) for name in (*old.inputs, *old.captures)]
    theirs = [_read(name, held[1], name) for name in (*new.inputs, *new.captures)]
    if old.op in COMMUTATIVE:
        ours.sort()
        theirs.sort()
    return len(old.inputs) == len(new.inputs) and ours == theirs


def _read(name: str, held: Mapping[str, str], called: str | None) -> tuple[str, str]:
    """What an operator reads, in words that both sides share: a constant by its values, a tensor as the candidate calls it.

    Args:
      name: of what is read; "" = an optional input that is left out.
      held: values of the version's constants.
      called: the candidate's name; None = it has no such tensor.
    """
    if not name:
        return "left out", ""
    if name in held:
        return "constant", held[name]
    return ("tensor", called) if called is not None else ("alone", name)
