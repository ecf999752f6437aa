"""What differs between two regions of graphs, and what the differences amount to."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core.graphs import Node

MEANING_OF_AXIS = "meaning of axis"
"""An attribute told of operators whose opset decides what their axis means."""


class ChangeKind(enum.StrEnum):
    """What differs between two regions."""

    OPERATOR = "operator"
    """Another operator in its place."""
    ATTRIBUTE = "attribute"
    """An attribute has another value, or only one side has it."""
    CONSTANT = "constant"
    """A constant that is no weight: a few whole numbers, words, another shape or type."""
    WEIGHTS = "weights"
    """Floats of the same shape, in an initialiser or, as trees keep theirs, in an attribute."""
    INPUTS = "inputs"
    """The operator reads other tensors, or in another order."""
    REPLACED = "replaced"
    """One or several operators in the place of another number of them."""
    ADDED = "added"
    """An operator that only the candidate has."""
    REMOVED = "removed"
    """An operator that only the baseline has."""
    OPSET = "opset"
    """The same operator of another version of its domain, which may compute otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between two regions."""

    kind: ChangeKind
    """What differs."""
    node: str
    """The operator and what it makes: `Mul → distance_km`."""
    name: str
    """The attribute's or initialiser's name, or the opset's domain; "" for whole operators."""
    baseline: str
    """As the baseline has it; "" = not at all."""
    candidate: str
    """As the candidate has it; "" = not at all."""


class Cause(enum.StrEnum):
    """What lies behind a divergence."""

    WEIGHTS = "weights"
    """The same operators with other weights."""
    GRAPH = "graph"
    """Other operators, attributes, wiring, or constants that are no weights."""
    RUNTIME = "runtime"
    """The same computation: another runtime, machine or batch composition."""
    NONDETERMINISTIC = "nondeterministic"
    """A random operator lies before it, or a version differs from itself here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One tensor of the frontier."""

    baseline: str
    """The first tensor that differs, in the baseline's graph."""
    candidate: str
    """Its partner."""
    last_equal: tuple[str, ...]
    """What both compute equally just before it: baseline's tensors and inputs."""
    operators: tuple[tuple[str, ...], tuple[str, ...]]
    """Operators between and what they make, `Mul → km`: the baseline's, then the candidate's, both in
    topological order."""
    changes: tuple[Change, ...]
    """What differs in the region, at most MOST_CHANGES."""
    cause: Cause
    """What the changes amount to."""
    farther: bool = False
    """The changes stand before `last_equal`, where what they do is within the tolerance."""


def whole_operator(kind: ChangeKind, node: Node) -> Change:
    """A change of an operator that one version only has."""
    added = kind is ChangeKind.ADDED
    return Change(
        kind=kind,
        node=shown(node),
        name="",
        baseline="" if added else node.op,
        candidate=node.op if added else "",
    )


def replaced_operators(ours: Sequence[Node], theirs: Sequence[Node]) -> Change:
    """A change of some operators into others."""
    return Change(
        kind=ChangeKind.REPLACED,
        node=", ".join(map(shown, ours)),
        name="",
        baseline=", ".join(node.op for node in ours),
        candidate=", ".join(map(shown, theirs)),
    )


def other_opset(
    old: Node, new: Node, versions: tuple[Mapping[str, str], Mapping[str, str]]
) -> Change | None:
    """A change of an operator that both versions have and take from other opsets; None where there is none.

    Nor is there one where both opsets are known to define it alike.

    Args:
      old: the operator in the baseline.
      new: the same in the candidate.
      versions: domain → version of the baseline's and of the candidate's graph.
    """
    domain = old.op.rpartition(".")[0] or "ai.onnx"
    was, now = (known.get(domain, "") for known in versions)
    if not was or not now or was == now or (old.since and old.since == new.since):
        return None
    return Change(kind=ChangeKind.OPSET, node=shown(old), name=domain, baseline=was, candidate=now)


def is_one_number(text: str) -> bool:
    """Whether a constant's text is of a single number: `float[1, 1] [2]`."""
    shape, _, values = text.partition(" ")
    sizes = shape.partition("[")[2].rstrip("]")
    return bool(values) and "," not in values and sizes.replace("1", "").strip(", ") == ""


def is_bound(change: Change) -> bool:
    """Whether it is about what an operator compares with."""
    return change.node.partition(" ")[0] in _COMPARES


def may_be_alike(divergence: Divergence) -> bool:
    """Whether a region may make the same in effect, so that what it makes is to be looked at.

    It has other operators, or others read each other, as a fusion makes it, or it has other attributes and constants.
    Not where merely weights are others, or one number that values are compared with: few requests come near that.
    """
    changes = divergence.changes
    if any(change.kind in _WHOLE for change in changes):
        return True
    moved = any(
        is_bound(c) and is_one_number(c.baseline) and _numbers(c.baseline) != _numbers(c.candidate)
        for c in changes
    )
    return not moved and any(change.kind is not ChangeKind.WEIGHTS for change in changes)


def _numbers(text: str) -> str:
    """The last numbers of a constant's text, whatever its type and shape are: `2]` of `float[1, 1] [2]`."""
    return text.rpartition("[")[2]


def later_changes(found: Sequence[Divergence], after: Sequence[Divergence]) -> tuple[Change, ...]:
    """What differs after the first differences: a retrain changes weights there, but no operator and no bound.

    Args:
      found: the frontier's.
      after: of tensors behind it, each from the nearest compared ones; without those that are the same in effect.
    """
    told = {change for divergence in found for change in divergence.changes}
    changes = dict.fromkeys(c for divergence in after for c in divergence.changes if c not in told)
    return tuple(
        c
        for c in changes
        if c.kind is not ChangeKind.WEIGHTS or (is_bound(c) and is_one_number(c.baseline))
    )


_WHOLE = frozenset(
    (
        ChangeKind.OPERATOR,
        ChangeKind.INPUTS,
        ChangeKind.REPLACED,
        ChangeKind.ADDED,
        ChangeKind.REMOVED,
    )
)
_COMPARES = frozenset(
    ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Binarizer", "Clip", "Where")
)
"""Operators whose constants are bounds."""


def shown(node: Node) -> str:
    """An operator and what it makes, in words."""
    return f"{node.op} → {', '.join(n for n in node.outputs if n)}"


def cause_of(changes: Sequence[Change]) -> Cause:
    """Weights where nothing else changed."""
    if not changes:
        return Cause.RUNTIME
    weights = all(c.kind is ChangeKind.WEIGHTS for c in changes)
    return Cause.WEIGHTS if weights else Cause.GRAPH
