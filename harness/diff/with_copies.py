"""Pairs of two graphs without copies, made pairs of the graphs as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from harness.core.graphs import Graph
from harness.diff.graph_hashes import without_aliases
from harness.diff.graph_match import GraphMatch, TensorMatch, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutCopies:
    """One graph, and the same without Identity nodes."""

    whole: Graph
    """As it is."""
    plain: Graph
    """Without."""
    copies: Mapping[str, str]
    """What an Identity made → what it is a copy of."""
    exact: Mapping[str, bytes]
    """Tensor → digest of all it is computed from."""

    def is_computed(self, name: str) -> bool:
        """Whether a node other than an Identity makes a tensor, or what it is a copy of."""
        return self.plain.producer(self.copies.get(name, name)) is not None


def with_copies(
    old: WithoutCopies,
    new: WithoutCopies,
    *,
    outputs: Mapping[str, str],
    pairs: Mapping[str, TensorMatch],
    taken: Collection[str],
) -> GraphMatch:
    """Adds the copies, which match where their originals do; an output stands for its own partner.

    (An output that is a copy of a tensor which also exists on the other side was compared with that
    tensor, and not with the other side's output.)

    Args:
      old: the baseline's graph.
      new: the candidate's.
      outputs: baseline's output → candidate's.
      pairs: baseline's tensor → its match, without copies.
      taken: candidate's tensors that are matched, without copies.
    """
    found, alone = [], []
    whole = (set(old.whole.observable()), set(new.whole.observable()))
    ends = {a: b for a, b in outputs.items() if a in whole[0] and b in whole[1]}
    copies: dict[str, str] = {}
    for copy, origin in new.copies.items():
        copies.setdefault(origin, copy)
    for name in old.whole.observable():
        match = pairs.get(old.copies.get(name, name))
        if name in ends:
            found.append(_end(old, new, (name, ends[name]), match))
        elif match is None:
            alone.append(name)
        else:
            partner = copies.get(match.candidate, match.candidate)
            theirs = partner if name in old.copies else match.candidate
            found.append(TensorMatch(baseline=name, candidate=theirs, tier=match.tier))
    known = {pair.candidate for pair in found}
    lone = [
        name
        for name in new.whole.computed()
        if name not in known and new.copies.get(name, name) not in taken
    ]
    # A copy of something that is not computed (an input, a constant) needs no partner.
    return GraphMatch(
        pairs=tuple(found),
        baseline_only=tuple(filter(old.is_computed, alone)),
        candidate_only=tuple(filter(new.is_computed, lone)),
    )


def _end(
    old: WithoutCopies, new: WithoutCopies, pair: tuple[str, str], match: TensorMatch | None
) -> TensorMatch:
    """An output with its partner, for the reason for which their originals match."""
    ours, theirs = pair
    origin = new.copies.get(theirs, theirs)
    exact = old.exact.get(old.copies.get(ours, ours))
    tier = Tier.OUTPUT
    if exact is not None and exact == new.exact.get(origin):
        tier = Tier.IDENTICAL
    elif match is not None and match.candidate == origin:
        tier = match.tier
    return TensorMatch(baseline=ours, candidate=theirs, tier=tier)


def with_its_copies(graph: Graph, names: Collection[str]) -> frozenset[str]:
    """Tensors with all copies of them that are no outputs, which stand for the same partners."""
    copies = without_aliases(graph)[1].items()
    made = (copy for copy, origin in copies if origin in names and copy not in graph.outputs)
    return frozenset((*names, *made))
