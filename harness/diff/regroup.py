"""Constants that one version splits or fuses: which other tensor stands for one that was paired by its looks.

×2 may be ×4 and then ×0.5, a batch norm may be folded into the convolution before it. Without weights
both first steps look the same and are paired, though their values differ; what the other version makes of
the next step is equal again. So a pair that rests on looks alone and differs gives way, where one side
goes on from it, by operators whose tensors have no equal partner either, to a tensor with the other side's
very values. Where graphs repeat themselves such a pair may also be crosswise: what is made by the same
operator from the right partners is tried first, and what stands before the pair last. Who reads the tensor that loses its partner is compared as before: if a reader differs by it,
the graphs part there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from harness.core.graphs import Graph
from harness.diff.graph_hashes import without_aliases
from harness.diff.graph_match import GraphMatch, TensorMatch, Tier

_MOST_STEPS = 8
"""Tensors that are tried in the place of one."""
_SURE = (Tier.IDENTICAL, Tier.DECLARED, Tier.MAPPED, Tier.OUTPUT)


class Regrouping:
    """The pairs of two graphs, and those that may give way.

    Args:
      baseline: its graph.
      candidate: its graph.
      match: pairs so far.
      outputs: baseline's output → candidate's; these keep their partners.
    """

    def __init__(
        self, baseline: Graph, candidate: Graph, match: GraphMatch, outputs: Mapping[str, str]
    ) -> None:
        self._old, self._old_copies = without_aliases(baseline)
        self._new, self._new_copies = without_aliases(candidate)
        self._match = match
        self._whole = (baseline, candidate)
        self._ends = (
            {self._old_copies.get(name, name) for name in outputs},
            {self._new_copies.get(name, name) for name in outputs.values()},
        )
        self._tiers = {pair.baseline: pair.tier for pair in match.pairs}
        self._of_new = {
            self._new_copies.get(p.candidate, p.candidate): p.baseline
            for p in match.pairs
            if p.baseline not in self._old_copies
        }
        self._of_old = {ours: name for name, ours in self._of_new.items()}
        self._known: dict[tuple[int, str, str, int], list[str]] = {}
        """What was found behind a tensor, in this round: it may have many thousands of readers that all ask."""

    def instead(
        self, frontier: Iterable[tuple[str, str]], divergent: Collection[str]
    ) -> dict[tuple[str, str], tuple[tuple[str, str], ...]]:
        """Pairs to try in the place of others, nearest first.

        Args:
          frontier: (baseline's, candidate's) tensors that differ and are paired, or were.
          divergent: baseline's tensors whose partners have other values.

        Returns:
          Pair → what to try for it; pairs that must stay are left out.
        """
        found = {}
        self._known = {}
        if not (self._match.baseline_only or self._match.candidate_only):
            return {}  # nothing was split or fused: no side has a tensor to spare
        for ours, theirs in frontier:
            a, b = ours, self._new_copies.get(theirs, theirs)
            fixed = a in self._ends[0] or b in self._ends[1] or self._tiers.get(a) in _SURE
            if fixed or a in self._old_copies:
                continue
            later = [
                (a, name) for name in (*self._beside(a, divergent), *self._after(1, b, divergent))
            ]
            free = self._of_new.get(b, a) == a
            earlier = [(name, b) for name in self._after(0, a, divergent)] if free else []
            # Of several like steps in a row, what is read by the same need not be the one with equal values.
            nearby = (*self._before(1, b, divergent), *self._follows(0, a, divergent))
            later += [(a, name) for name in nearby]
            if free:
                nearby = (*self._before(0, a, divergent), *self._follows(1, b, divergent))
                earlier += [(name, b) for name in nearby]
            if later or earlier:
                found[ours, theirs] = (*later, *earlier)
        return found

    def _beside(self, tensor: str, divergent: Collection[str]) -> list[str]:
        """What the candidate makes by the same operator from the partners of what this one is made from."""
        made_by = self._old.producer(tensor)
        if made_by is None:
            return []
        place = made_by.outputs.index(tensor)
        partners = [p for s in made_by.sources() if (p := self._of_old.get(s))]
        found = (self._made(partner, made_by.op, place, divergent) for partner in partners)
        return list(dict.fromkeys(name for names in found for name in names))[:_MOST_STEPS]

    def _made(self, tensor: str, op: str, place: int, divergent: Collection[str]) -> list[str]:
        """What the candidate makes of a tensor by an operator of this kind, as its output there."""
        key = 1, tensor, op, place
        if key not in self._known:
            made = (n.outputs[place : place + 1] for n in self._new.consumers(tensor) if n.op == op)
            names = dict.fromkeys(name for names in made for name in names if name)
            loose = (name for name in names if self._loose(1, name, divergent))
            self._known[key] = list(islice(loose, _MOST_STEPS))
        return self._known[key]

    def _after(self, side: int, tensor: str, divergent: Collection[str]) -> list[str]:
        """What is made from a tensor, through tensors without an equal partner, and has none itself."""
        key = side, tensor, "", -1
        if key not in self._known:
            self._known[key] = self._behind(side, tensor, divergent)
        return self._known[key]

    def _behind(self, side: int, tensor: str, divergent: Collection[str]) -> list[str]:
        graph = (self._old, self._new)[side]
        found: dict[str, None] = {}
        waiting = [tensor]
        for name in waiting:
            for node in graph.consumers(name):
                for made in node.outputs:
                    if made and made not in found and self._loose(side, made, divergent):
                        found[made] = None
                        waiting.append(made)
            if len(found) >= _MOST_STEPS:
                break
        return list(found)[:_MOST_STEPS]

    def _before(self, side: int, tensor: str, divergent: Collection[str]) -> list[str]:
        """What a tensor is made from, through tensors without an equal partner, and has none itself."""
        graph = (self._old, self._new)[side]
        found: dict[str, None] = {}
        waiting = [tensor]
        for name in waiting:
            node = graph.producer(name)
            for source in node.sources() if node else ():
                if (
                    source not in found
                    and graph.producer(source)
                    and self._loose(side, source, divergent)
                ):
                    found[source] = None
                    waiting.append(source)
            if len(found) >= _MOST_STEPS:
                break
        return list(found)[:_MOST_STEPS]

    def _follows(self, side: int, tensor: str, divergent: Collection[str]) -> list[str]:
        """What the other side makes of the partners of what a tensor is made from."""
        node = (self._old, self._new)[side].producer(tensor)
        partners = self._of_new if side else self._of_old
        return [
            name
            for source in (node.sources() if node else ())
            if source in partners
            for name in self._after(1 - side, partners[source], divergent)
        ]

    def _loose(self, side: int, tensor: str, divergent: Collection[str]) -> bool:
        """Whether a tensor has no partner, or one by looks alone whose values differ."""
        ours = tensor if side == 0 else self._of_new.get(tensor)
        if tensor in self._ends[side]:
            return False
        tier = None if ours is None else self._tiers.get(ours)
        return tier is None or (tier not in _SURE and ours in divergent)

    def paired(self, chosen: Mapping[tuple[str, str], tuple[str, str]]) -> GraphMatch:
        """The match with other pairs.

        Args:
          chosen: pair → the one in its place, of equal values.
        """
        partner = dict(chosen.values())
        taken = set(partner.values())
        dropped = {ours for ours, _ in chosen} | {
            self._of_new[b] for b in taken & self._of_new.keys()
        }
        stays = {
            p.baseline: p
            for p in self._match.pairs
            if self._old_copies.get(p.baseline, p.baseline) not in dropped
        }
        for name in self._whole[0].computed():
            theirs = partner.get(self._old_copies.get(name, name))
            if theirs is not None:
                stays[name] = TensorMatch(baseline=name, candidate=theirs, tier=Tier.VALUES)
        freed = {b for b, ours in self._of_new.items() if ours in dropped} - taken
        alone = {*self._match.baseline_only, *self._tiers} - stays.keys()
        others = {
            name for name in self._whole[1].computed() if self._new_copies.get(name, name) in freed
        } | {n for n in self._match.candidate_only if self._new_copies.get(n, n) not in taken}
        old, new = (graph.observable() for graph in self._whole)
        return GraphMatch(
            pairs=tuple(stays[name] for name in old if name in stays),
            baseline_only=tuple(name for name in old if name in alone),
            candidate_only=tuple(name for name in new if name in others),
        )


def first_free(
    tried: Mapping[tuple[str, str], tuple[tuple[str, str], ...]],
    equal: Collection[tuple[str, str]],
) -> dict[tuple[str, str], tuple[str, str]]:
    """Of what was tried for each pair the nearest with equal values; a tensor is chosen once.

    Args:
      tried: from `Regrouping.instead`.
      equal: those of them whose values are equal.
    """
    chosen: dict[tuple[str, str], tuple[str, str]] = {}
    taken: tuple[set[str], set[str]] = (set(), set())
    # Where the same values stand in several places, the nearest has the better claim.
    by_nearness = sorted(
        (rank, place, pair, option)
        for place, (pair, options) in enumerate(tried.items())
        for rank, option in enumerate(options)
        if option in equal
    )
    for _, _, pair, (ours, theirs) in by_nearness:
        if pair not in chosen and ours not in taken[0] and theirs not in taken[1]:
            chosen[pair] = ours, theirs
            taken[0].add(ours)
            taken[1].add(theirs)
    return chosen
