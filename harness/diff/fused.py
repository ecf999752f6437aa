"""Steps that one version takes in several operators and the other in one: their ends stand for each other.

A batch norm is folded into the convolution before it, a scaler into the matrix after it, MatMul and Add
become Gemm. Each is a run of linear operators on constants; what such runs make of the same tensor is the
same where they end, not where they begin: the convolution alone stands for nothing of the folded one. The
ends are known by who reads them. (Paired by their beginnings, each folded convolution stood for the one
before the batch norm, all of them differed, and feeding these values mended nothing.)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import product

from harness.core.graphs import Graph, Node
from harness.diff.graph_match import TensorMatch
from harness.diff.linear_steps import MOST_STEPS, Steps
from harness.diff.uses import made_as, made_by, unmatched_readers, use_of

_MOST_INSIDE = 64
"""Operators without a partner that one step may be written out in."""
Pair = tuple[str, str]


class Fusions:
    """What two graphs may have fused.

    Args:
      graphs: the baseline's and the candidate's, without copies.
      ends: baseline's output → candidate's.
      of_old: baseline's tensor → its match; read as it grows.
      of_new: candidate's tensor → its partner; read as it grows.
    """

    def __init__(
        self,
        graphs: tuple[Graph, Graph],
        ends: Mapping[str, str],
        of_old: Mapping[str, TensorMatch],
        of_new: Mapping[str, str],
    ) -> None:
        self._graphs = graphs
        self._steps = (Steps(graphs[0], ends), Steps(graphs[1], {}))
        self._of_old = of_old
        self._taken = (of_old, of_new)

    def ends(self, old: str, new: str) -> Pair | None:
        """Of two runs the tensors that stand for each other, because the same reads them.

        Args:
          old: what the first operator of the baseline's run makes.
          new: what that of the candidate's makes.

        Returns:
          The pair, which may be found already; None where the runs are no fused step, or begin with the
          very same operator.
        """
        sides = list(zip(self._steps, (old, new), strict=True))
        if any(steps.source(name) is None for steps, name in sides):
            return None
        ours, theirs = (steps.step(name) for steps, name in sides)
        if ours == theirs:
            return None
        runs = [steps.run(name) for steps, name in sides]
        uses = [
            [steps.uses(name) for name in run] for steps, run in zip(self._steps, runs, strict=True)
        ]
        last = runs[0][-1], runs[1][-1]
        whole = max(map(len, runs)) < MOST_STEPS and len(runs[0]) != len(runs[1])
        if whole and uses[0][-1] and uses[0][-1] == uses[1][-1] and self._may_pair(*last):
            # A factor goes into weights and bias alike: what is between them has no partner at all.
            return last
        places = product(*(range(len(run)) for run in runs))
        for i, j in sorted(places, key=lambda at: (sum(at), at)):
            # The same operator on both sides is one that swallowed the next, or has none to swallow.
            if not uses[0][i] or uses[0][i] != uses[1][j] or (ours[0] == theirs[0] and i and j):
                continue
            if self._may_pair(runs[0][i], runs[1][j]):
                return runs[0][i], runs[1][j]
        return None

    def _may_pair(self, old: str, new: str) -> bool:
        """Whether neither has another partner."""
        known = self._of_old.get(old)
        return new not in self._taken[1] if known is None else known.candidate == new

    def after(self, old: str, new: str) -> Pair | None:
        """What linear operators make of a pair, where either side has one without its like."""
        uses = [
            {use_of(node, name): node for node in steps.readers(name, taken)}
            for steps, name, taken in zip(self._steps, (old, new), self._taken, strict=True)
        ]
        ours, theirs = ([uses[i][k] for k in uses[i].keys() - uses[1 - i].keys()] for i in (0, 1))
        if len(ours) == len(theirs) == 1:
            return self.ends(made_by(ours[0])[0], made_by(theirs[0])[0])
        return None

    def roots(self, old: str, new: str) -> Pair | None:
        """What two linear steps that end in a pair begin from; None where either is no such step."""
        found = [
            steps.root(name, taken)
            for steps, name, taken in zip(self._steps, (old, new), self._taken, strict=True)
        ]
        return (found[0], found[1]) if found[0] != old and found[1] != new else None

    def alike(self, old: str, new: str) -> bool:
        """Whether the same operator makes both, or both end a linear step for the same readers."""
        made = made_as(self._graphs[0], old)
        if made and made == made_as(self._graphs[1], new):
            return True
        sides = list(zip(self._steps, (old, new), strict=True))
        if any(steps.source(name) is None for steps, name in sides):
            return False
        ours, theirs = (steps.uses(name) for steps, name in sides)
        return ours == theirs

    def lone_readers(self, old: str, new: str) -> list[Pair]:
        """What the only unmatched operator on either side makes of a pair; nothing of linear ones on constants.

        These may be parts of fused steps, and then stand for something else, or for nothing. Where the one
        is followed by an operator like the other, it was put in (or taken out), and that one is the partner.
        """
        ours, theirs = (
            unmatched_readers(graph, name, taken)
            for graph, name, taken in zip(self._graphs, (old, new), self._taken, strict=True)
        )
        if len(ours) != 1 or len(theirs) != 1:
            return []
        made = list(zip(made_by(ours[0]), made_by(theirs[0]), strict=False))
        linear = any(s.source(n) for pair in made for s, n in zip(self._steps, pair, strict=True))
        uses = use_of(ours[0], old), use_of(theirs[0], new)
        if linear or uses[0][1] != uses[1][1]:
            return []
        further = self._next(0, ours[0], uses[1]), self._next(1, theirs[0], uses[0])
        if (further[0] is None) == (further[1] is None):
            return made
        partners = further[0] or ours[0], further[1] or theirs[0]
        return list(zip(*map(made_by, partners), strict=False))

    def _next(self, side: int, node: Node, use: Hashable) -> Node | None:
        """The only reader of an operator's only tensor: without a partner, and reading it as another does."""
        graph, made = self._graphs[side], made_by(node)
        readers = graph.consumers(made[0]) if len(made) == 1 else []
        if len(readers) != 1 or use_of(readers[0], made[0]) != use or readers[0].op == node.op:
            return None
        return next(iter(unmatched_readers(graph, made[0], self._taken[side])), None)

    def is_written_otherwise(self, old: str, new: str) -> bool:
        """Whether both are inside of linear steps that go on by other operators, too."""
        sides = list(zip(self._steps, (old, new), strict=True))
        if any(steps.source(name) is None for steps, name in sides):
            return False
        ours, theirs = (steps.uses(name) for steps, name in sides)
        return ours != theirs and all(len(steps.run(name)) > 1 for steps, name in sides)

    def has_namesake(self, old: str, new: str) -> bool:
        """Whether other operators read the one of a pair than the other, and the same a tensor of its name."""
        if old == new:
            return False
        steps, graphs, taken = self._steps, self._graphs, self._taken
        ours, theirs = steps[0].uses(old), steps[1].uses(new)
        if ours == theirs or steps[0].step(old) == steps[1].step(new):
            return False
        free = (
            bool(graphs[0].producer(new)) and new not in taken[0],
            bool(graphs[1].producer(old)) and old not in taken[1],
        )
        return (free[0] and steps[0].uses(new) == theirs) or (
            free[1] and steps[1].uses(old) == ours
        )

    def same_readers(self) -> Iterable[Pair]:
        """What matched operators read in the same place, though one side makes it otherwise.

        An operator of the kind that makes the one must not be inside of what the other is made by: there
        it would stand for that, and the rest would be new.
        """
        groups: tuple[dict[Hashable, list[str]], dict[Hashable, list[str]]] = ({}, {})
        for side, graph in enumerate(self._graphs):
            for name in graph.computed():
                key = None if name in self._taken[side] else self._read_by(side, name)
                if key is not None:
                    groups[side].setdefault(key, []).append(name)
        for key, names in groups[0].items():
            partners = groups[1].get(key, [])
            if len(names) == len(partners) == 1 and self._is_written_out(names[0], partners[0]):
                yield names[0], partners[0]

    def _read_by(self, side: int, name: str) -> Hashable:
        """Which matched operators read a tensor, and as which operand; None where not all are known."""
        graph = self._graphs[side]
        found = []
        for reader in graph.consumers(name):
            made = made_by(reader)
            if not made or made[0] not in self._taken[side]:
                return None
            known = self._of_old[made[0]].candidate if side == 0 else made[0]
            found.append((known, *use_of(reader, name)))
        return None if name in graph.outputs else tuple(sorted(found))

    def _is_written_out(self, old: str, new: str) -> bool:
        """Whether either side has nothing without a partner that would stand for the other's last operator."""
        inside = [self._inside(0, old), self._inside(1, new)]
        made = [made_as(graph, name) for graph, name in zip(self._graphs, (old, new), strict=True)]
        if made[0] is None or made[1] is None or not (inside[0] and inside[1]):
            return False
        return made[0][0] not in inside[1] and made[1][0] not in inside[0]

    def _inside(self, side: int, tensor: str) -> set[str]:
        """Operators back to the nearest tensors that have partners; none where these are many."""
        graph, taken = self._graphs[side], self._taken[side]
        waiting, seen, found = [tensor], {tensor}, set[str]()
        while waiting:
            node = graph.producer(waiting.pop())
            if node is None:
                continue
            found.add(node.op)
            fresh = [s for s in node.sources() if s not in taken and s not in seen]
            seen.update(fresh)
            waiting += fresh
            if len(seen) > _MOST_INSIDE:
                return set()
        return found
