"""The first place where two graphs part: the frontier, and what differs just before it.

A matched tensor is on the frontier when it diverges and no matched tensor that it is computed from
does. Its region is everything between it and the last matched tensors that are equal, on both sides.
Two regions that compute the same from the same constants and yet differ point at the runtime.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from harness.core.graphs import Constant, Graph, Node
from harness.diff.alignment import aligned_nodes
from harness.diff.changes import (
    Cause,
    Change,
    ChangeKind,
    Divergence,
    cause_of,
    other_opset,
    replaced_operators,
    shown,
    whole_operator,
)
from harness.diff.graph_hashes import COMMUTATIVE, without_aliases
from harness.diff.graph_match import GraphMatch, Tier

MOST_CHANGES = 20


class Regions:
    """Two matched graphs, and which of their matched tensors were compared.

    Args:
      baseline: its graph.
      candidate: its graph.
      match: pairs of tensors.
      inputs: baseline's input → candidate's.
      compared: baseline's tensors that have values on both sides.
      chosen_by: baseline's tensor of a branch laid open → the tensors that chose the branch: where these
        differ, another branch is taken, and what it makes is no first divergence.
      same: of the compared tensors those that are equal in every bit: what is before them is no cause of anything.
    """

    def __init__(
        self,
        baseline: Graph,
        candidate: Graph,
        match: GraphMatch,
        *,
        inputs: Mapping[str, str],
        compared: Collection[str],
        chosen_by: Mapping[str, Collection[str]] | None = None,
        same: Collection[str] = (),
    ) -> None:
        self.whole_operator = (baseline, candidate)
        self._old, self._copies = without_aliases(baseline)
        self._new, self._new_copies = without_aliases(candidate)
        self._chosen_by = chosen_by or {}
        known = {p.baseline: p.candidate for p in match.pairs if p.baseline in compared}
        self._anchors = {**known, **inputs}
        identical = {p.baseline for p in match.pairs if p.tier is Tier.IDENTICAL}
        self._same = {*inputs, *same}
        self._unsure = known.keys() - identical - self._same
        """Equal within a tolerance, perhaps, but not in every bit, and not the same computation."""
        self._anchored_new = {theirs: ours for ours, theirs in self._anchors.items()}
        self._constants: tuple[dict[str, Constant], dict[str, Constant]] = (
            {c.name: c for c in self._old.constants},
            {c.name: c for c in self._new.constants},
        )

    def frontier(
        self, divergent: Collection[str], reshaped: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Compared tensors that diverge and are computed from none that does.

        Args:
          divergent: baseline's tensors beyond their tolerance.
          reshaped: those with equal values in another shape; after one that diverges, what reads them
            differs by that and is no first divergence.

        Returns:
          Baseline's tensors in topological order.
        """
        tainted: set[str] = set()
        found = []
        for node in self._old.nodes:
            before = any(s in tainted for s in (*node.sources(), *self._conditions(node)))
            for name in filter(None, node.outputs):
                if name not in self._anchors:
                    if before:
                        tainted.add(name)
                    continue
                if name in divergent or (before and name in reshaped):
                    tainted.add(name)
                if name in divergent and not before:
                    found.append(name)
        # An output may be a mere copy or a constant, and its partner something else.
        ends = {**self._copies, **{name: name for name in self._constants[0]}}
        found += [n for n, origin in ends.items() if n in divergent and origin not in tainted]
        return tuple(found)

    def _conditions(self, node: Node) -> tuple[str, ...]:
        """What chose the branch that a node stands in; () outside of branches."""
        chosen = (c for o in node.outputs for c in self._chosen_by.get(o, ()))
        return tuple(self._copies.get(c, c) for c in chosen)

    def risen(self, frontier: Sequence[str], divergent: Collection[str]) -> tuple[str, ...]:
        """Frontier tensors that merely show again what differs before them.

        A difference may sink under the tolerance and rise above it again, which is no first divergence: between
        these and divergent tensors before them, both versions compute the same of the same constants.

        Args:
          frontier: from `frontier`, of the same divergent tensors.
          divergent: baseline's tensors beyond their tolerance.

        Returns:
          Some of the former, in their order.
        """
        after: set[str] = set()
        for node in self._old.nodes:
            if any(s in after or s in divergent for s in node.sources()):
                after.update(filter(None, node.outputs))
        sure = self._sure({*self._unsure, *(after - self._same)}, divergent)
        found = []
        for tensor in frontier:
            theirs = self._anchors[tensor]
            (ours_nodes, ours_ends), (theirs_nodes, theirs_ends) = self._farther(
                tensor, theirs, sure
            )
            ends = {*ours_ends, *(self._anchored_new[e] for e in theirs_ends)}
            if (
                not ends.isdisjoint(divergent)
                and not self._changes(ours_nodes, theirs_nodes)
                and not self._other_opsets(ours_nodes, theirs_nodes)
            ):
                found.append(tensor)
        return tuple(found)

    def divergence(
        self, tensor: str, *, noisy: bool = False, divergent: Collection[str] = ()
    ) -> Divergence:
        """What lies between a frontier tensor and the last equal ones.

        Args:
          tensor: baseline's, from `frontier`.
          noisy: the region is random, or a version differs from itself here.
          divergent: baseline's tensors that are told elsewhere; what differs before these is not told again.
        """
        theirs = self._anchors[tensor]
        origin = self._copies.get(tensor, tensor)
        # A copy and its original may both stand for what the candidate makes without a copy.
        begin = origin if self._anchors.get(origin) == theirs else tensor
        ours_nodes, ours_ends = self._between(0, begin)
        theirs_nodes, theirs_ends = self._between(1, theirs)
        ends = set(ours_ends) | {self._anchored_new[e] for e in theirs_ends}
        changes = (
            self._changes(ours_nodes, theirs_nodes)
            if ours_nodes or theirs_nodes
            else self._constant_changes((tensor, theirs), f"Constant → {tensor}")
        )
        farther: tuple[Change, ...] = ()
        if not changes:
            near = self._farther_changes(tensor, theirs, divergent)
            farther = near or self._farther_changes(tensor, theirs, ())
            changes = farther or self._other_opsets(ours_nodes, theirs_nodes)
        return Divergence(
            baseline=tensor,
            candidate=theirs,
            last_equal=tuple(sorted(ends, key=lambda name: (self._old.place(name), name))),
            operators=(
                tuple(shown(n) for n in ours_nodes),
                tuple(shown(n) for n in theirs_nodes),
            ),
            changes=changes[:MOST_CHANGES],
            farther=bool(farther),
            cause=Cause.NONDETERMINISTIC if noisy else cause_of(changes),
        )

    def inside(self, tensor: str) -> tuple[str, ...]:
        """What the baseline computes between a frontier tensor and the last equal ones, in topological order."""
        nodes, ends = self._between(0, tensor)
        known = {tensor, *ends}
        return tuple(n for node in nodes for n in node.outputs if n and n not in known)

    def _farther_changes(
        self, tensor: str, theirs: str, divergent: Collection[str]
    ) -> tuple[Change, ...]:
        """What differs before equal tensors that are not the same computation on both sides.

        A change whose effect is within the tolerance there may be beyond it one operator later.
        """
        ours, others = self._farther(tensor, theirs, self._sure(self._unsure, divergent))
        return self._changes(ours[0], others[0])

    def _sure(
        self, unsure: Collection[str], divergent: Collection[str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Compared tensors that a look farther back ends at, and their partners."""
        sure = {a: b for a, b in self._anchors.items() if a not in unsure or a in divergent}
        passed = {b for a, b in self._anchors.items() if a not in sure}
        return sure, {b: a for b, a in self._anchored_new.items() if b not in passed}

    def _farther(
        self, tensor: str, theirs: str, sure: tuple[Mapping[str, str], Mapping[str, str]]
    ) -> tuple[_Region, _Region]:
        """Both sides' nodes back to what is sure, and the latter."""
        return (
            _region(self._old, self._copies.get(tensor, tensor), sure[0]),
            _region(self._new, self._new_copies.get(theirs, theirs), sure[1]),
        )

    def _other_opsets(self, ours: Sequence[Node], theirs: Sequence[Node]) -> tuple[Change, ...]:
        """Operators that are the same on both sides, and yet may compute otherwise."""
        old, new = (dict(graph.opsets) for graph in self.whole_operator)
        pairs = aligned_nodes(ours, theirs).pairs
        found = (other_opset(a, b, (old, new)) for a, b in pairs)
        return tuple(change for change in found if change is not None)

    def _between(self, side: int, tensor: str) -> _Region:
        """Nodes from the nearest compared tensors to this one, a mere copy only where there is no other, and the former."""
        graph = (self._old, self._new)[side]
        anchors = (self._anchors, self._anchored_new)[side]
        origin = (self._copies, self._new_copies)[side].get(tensor)
        own = self.whole_operator[side].producer(tensor)
        if origin is None or own is None:
            return _region(graph, tensor, anchors)
        if origin in anchors:
            return [own], (origin,)
        nodes, ends = _region(graph, origin, anchors)
        return nodes or [own], ends

    def _changes(self, ours: Sequence[Node], theirs: Sequence[Node]) -> tuple[Change, ...]:
        """Differences of two short lists of nodes, aligned from their ends."""
        changes: list[Change] = []
        found = aligned_nodes(ours, theirs)
        partner = {a: b for x, y in found.pairs for a, b in zip(x.outputs, y.outputs, strict=False)}
        for old, new in found.pairs:
            changes += self._node_changes(old, new, partner)
        changes += [replaced_operators(*both) for both in found.replaced]
        changes += [whole_operator(ChangeKind.REMOVED, n) for n in found.removed]
        changes += [whole_operator(ChangeKind.ADDED, n) for n in found.added]
        return tuple(changes)

    def _node_changes(self, old: Node, new: Node, partner: Mapping[str, str]) -> list[Change]:
        place = shown(old)
        if old.op != new.op:
            return [
                Change(
                    kind=ChangeKind.OPERATOR, node=place, name="",
                    baseline=old.op, candidate=new.op,
                )
            ]  # fmt: skip
        changes = []
        ours = {a.name: a for a in old.attributes}
        theirs = {a.name: a for a in new.attributes}
        for name in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(name), theirs.get(name)
            if a is None or b is None or a.exact != b.exact:
                # Equal but for the numbers: weights that live in an attribute, as trees' do.
                weights = a is not None and b is not None and a.loose == b.loose
                changes.append(
                    Change(
                        kind=ChangeKind.WEIGHTS if weights else ChangeKind.ATTRIBUTE, node=place, name=name,
                        baseline=a.text if a else "", candidate=b.text if b else "",
                    )
                )  # fmt: skip
        return [*changes, *self._input_changes(old, new, partner)]

    def _input_changes(self, old: Node, new: Node, partner: Mapping[str, str]) -> list[Change]:
        """Other constants, and other tensors where constants do not tell."""
        ours = [self._read(0, s, partner) for s in (*old.inputs, *old.captures)]
        theirs = [self._read(1, s, partner) for s in (*new.inputs, *new.captures)]
        if old.op in COMMUTATIVE:
            ours, theirs = _without_common(ours, theirs)
        changes: list[Change] = []
        rewired = len(ours) != len(theirs)
        for a, b in zip(ours, theirs, strict=False):
            if _shared(a) == _shared(b):
                continue
            found = self._constant_changes((a[1], b[1]), shown(old))
            changes += found
            rewired |= not found
        if rewired:
            changes.append(
                Change(
                    kind=ChangeKind.INPUTS, node=shown(old), name="",
                    baseline=", ".join(old.sources()), candidate=", ".join(new.sources()),
                )
            )  # fmt: skip
        return changes

    def _constant_changes(self, names: tuple[str, str], node: str) -> tuple[Change, ...]:
        """Two constants that stand in each other's place; () when one of them is none."""
        was, now = self._constants[0].get(names[0]), self._constants[1].get(names[1])
        if was is None or now is None:
            return ()
        kind = ChangeKind.WEIGHTS if was.loose == now.loose else ChangeKind.CONSTANT
        return (Change(kind=kind, node=node, name=was.name, baseline=was.text, candidate=now.text),)

    def _read(self, side: int, tensor: str, partner: Mapping[str, str]) -> tuple[str, str]:
        """What an operator reads, in words that both sides share: a constant by value, else the pair."""
        constant = self._constants[side].get(tensor)
        if constant is not None:
            return constant.exact, constant.name
        if side == 1:
            return "tensor", tensor
        return "tensor", self._anchors.get(tensor, partner.get(tensor, tensor))


_Region = tuple[list[Node], tuple[str, ...]]
"""Nodes in topological order, and the tensors before them."""


def _region(graph: Graph, tensor: str, anchors: Mapping[str, str]) -> _Region:
    """Nodes back to the nearest anchors, in topological order, and these anchors."""
    waiting, places, ends = [tensor], set(), dict[str, None]()
    while waiting:
        name = waiting.pop()
        place = graph.place(name)
        if place < 0 or place in places:
            continue
        places.add(place)
        for source in graph.nodes[place].sources():
            if source in anchors:
                ends[source] = None
            else:
                waiting.append(source)
    return [graph.nodes[place] for place in sorted(places)], tuple(ends)


def _without_common(
    ours: list[tuple[str, str]], theirs: list[tuple[str, str]]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Both lists of a swappable operator's inputs without what they share."""
    left: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in theirs:
        left[_shared(entry)].append(entry)
    rest = []
    for entry in ours:
        same = left[_shared(entry)]
        if same:
            same.pop()
        else:
            rest.append(entry)
    kept = [entry for entries in left.values() for entry in entries]
    return rest, kept


def _shared(entry: tuple[str, str]) -> str:
    """A constant by its value, a tensor by its name."""
    return entry[1] if entry[0] == "tensor" else entry[0]
