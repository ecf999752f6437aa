"""Which tensor of one graph stands for which of the other; never by position in a list.

Tiers, best first: features that both versions declare; the same computation including weights; the user's own
mapping; the same computation but for weights; the same operator on the same constants; a neighbour of a matched pair
that only one operator of that kind can be; the same name; the same way on to the outputs; the same output; the same
place between matched tensors; the same readers. Where looks would pair the beginnings of a step that one version fuses,
its ends are paired. Where values are known, tensors whose values nobody else has go before all looks, and looks that
contradict them do not count (`surroundings`). A tensor is matched once. What stays unmatched is counted and told, never
taken for equal.

Names come late on purpose: exporters number tensors, so that one inserted node renames all that follow,
and `Add_3` of one version is `Add_4` of the other. (With names second, one inserted Mul made 40 tensors
of a net stand for their successors.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from harness.core.graphs import Graph, Node
from harness.diff.equal_constants import EqualConstants
from harness.diff.fused import Fusions
from harness.diff.graph_hashes import COMMUTATIVE, downstream, upstream, without_aliases
from harness.diff.graph_match import GraphMatch, TensorMatch, Tier
from harness.diff.looks import Looks
from harness.diff.surroundings import Fingerprints, Surroundings
from harness.diff.uses import made_as, made_by, unmatched_readers, use_of
from harness.diff.with_copies import WithoutCopies, with_copies

_Thing = TypeVar("_Thing")
_Key = TypeVar("_Key", bound=Hashable)
_SURE = (Tier.DECLARED, Tier.IDENTICAL, Tier.MAPPED)
_FAST = (*_SURE, Tier.OUTPUT)
"""What values do not speak against."""
_LOOKS = (Tier.ARCHITECTURE, Tier.NEIGHBOUR, Tier.NAME, Tier.DOWNSTREAM)
"""Reasons for which the first operators of a fused step may look alike."""
_MOST_LOOKS = 8
"""Times that what is known of the readers is followed back."""


def match_graphs(
    baseline: Graph,
    candidate: Graph,
    *,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    mapped: Mapping[str, str] | None = None,
    declared: Mapping[str, str] | None = None,
    values: tuple[Fingerprints, Fingerprints] | None = None,
) -> GraphMatch:
    """Pairs the computed tensors of two graphs.

    Args:
      baseline: its graph.
      candidate: its graph.
      inputs: baseline's input → candidate's, as the signatures were paired.
      outputs: baseline's output → candidate's, as the signatures were paired.
      mapped: baseline's tensor → candidate's, as the user says; unknown names are ignored here.
      declared: baseline's feature → candidate's, as the metadata pair them: these win over what graphs
        look like, so that whoever compares features and whoever compares tensors speaks of the same pair.
      values: fingerprints of what both computed for the same requests.

    Returns:
      The pairs and what has no partner. Time is linear in the graphs, but for sorting.
    """
    return _Matching(baseline, candidate, inputs).run(outputs, declared or {}, mapped or {}, values)


class _Matching:
    """Two graphs and the pairs found so far."""

    def __init__(self, baseline: Graph, candidate: Graph, inputs: Mapping[str, str]) -> None:
        self._whole = (baseline, candidate)
        self._old, self._old_copies = without_aliases(baseline)
        self._new, self._new_copies = without_aliases(candidate)
        self._common = {theirs: ours for ours, theirs in inputs.items()}
        self._of_old: dict[str, TensorMatch] = {}
        self._of_new: dict[str, str] = {}
        self._fresh: list[tuple[str, str]] = list(inputs.items())
        self._exact = (
            upstream(self._old, exact=True, inputs={}),
            upstream(self._new, exact=True, inputs=self._common),
        )
        self._held = tuple({c.name for c in g.constants} for g in (self._old, self._new))
        self._ends: tuple[dict[str, str], dict[str, str]] = ({}, {})
        graphs = self._old, self._new
        self._fusions = Fusions(graphs, self._ends[0], self._of_old, self._of_new)
        # Inputs and constants are no computed tensors, but they anchor their readers.
        self._anchors = dict(inputs)
        self._equal = EqualConstants((self._old, self._new), self._exact)
        self._about: Surroundings | None = None

    def run(
        self,
        outputs: Mapping[str, str],
        declared: Mapping[str, str],
        mapped: Mapping[str, str],
        values: tuple[Fingerprints, Fingerprints] | None,
    ) -> GraphMatch:
        """All tiers in order; neighbours are looked for again whenever there are new pairs."""
        plain = self._old, self._new
        for ours, theirs in outputs.items():
            a, b = self._old_copies.get(ours, ours), self._new_copies.get(theirs, theirs)
            self._ends[0][a], self._ends[1][b] = b, a
        for tier, pairs in self._by_digest(declared).items():
            self._pairs_of(pairs, tier)
        self._identical()
        self._pairs_of(mapped, Tier.MAPPED)
        if values is not None:
            self._same_values(values)
        self._architecture()
        self._neighbours()
        self._same_name(Tier.NAME)
        self._neighbours()
        old, new = self._old, self._new
        below = (downstream(old), downstream(new))
        self._same_key(
            lambda name: (made_as(old, name), below[0][name]),
            lambda name: (made_as(new, name), below[1][name]),
            Tier.DOWNSTREAM,
        )
        self._neighbours()
        self._same_name(Tier.RENAMED_OPERATOR)
        self._pairs_of(outputs, Tier.OUTPUT)
        for named in (True, False):
            between = partial(self._place, named=named)
            self._same_key(partial(between, 0), partial(between, 1), Tier.PLACE, 1)
        self._lone_readers()
        self._lone_values()
        self._same_readers()
        self._repeated()
        sides = (
            WithoutCopies(whole=whole, plain=graph, copies=copies, exact=exact)
            for whole, graph, copies, exact in zip(
                self._whole, plain, (self._old_copies, self._new_copies), self._exact, strict=True
            )
        )  # fmt: skip
        return with_copies(*sides, outputs=outputs, pairs=self._of_old, taken=self._of_new)

    def _by_digest(self, declared: Mapping[str, str]) -> dict[Tier, dict[str, str]]:
        """Declared pairs, those that are the same computation apart from the others."""
        found: dict[Tier, dict[str, str]] = {Tier.IDENTICAL: {}, Tier.DECLARED: {}}
        for ours, theirs in declared.items():
            a = self._exact[0].get(self._old_copies.get(ours, ours))
            b = self._exact[1].get(self._new_copies.get(theirs, theirs))
            found[Tier.IDENTICAL if a is not None and a == b else Tier.DECLARED][ours] = theirs
        return found

    def _identical(self) -> None:
        """The same computation, weights included, where it occurs equally often on both sides."""
        ours, theirs = self._exact
        groups = _grouped(self._new.computed(), theirs.__getitem__)
        for key, names in _grouped(self._old.computed(), ours.__getitem__).items():
            partners = groups.get(key, [])
            if len(names) == len(partners):
                for name, partner in zip(names, partners, strict=True):
                    self._take(name, partner, Tier.IDENTICAL)
        self._anchors |= self._equal.partners
        self._fresh += self._equal.pairs

    def _repeated(self) -> None:
        """What one side computes more often than the other: the rest stands for any of its like.

        Last, so that the tensor whose computation was changed on one side finds its own partner first.
        """
        ours, theirs = self._exact
        like = _grouped(self._new.computed(), theirs.__getitem__)
        for name in self._free_old():
            if ours[name] in like:
                self._take(name, like[ours[name]][0], Tier.IDENTICAL, again=True)
        known = _grouped(self._old.computed(), ours.__getitem__)
        for name in self._free_new():
            if theirs[name] in known:
                self._of_new[name] = known[theirs[name]][0]

    def _architecture(self) -> None:
        """The same computation but for weights; towers that look alike are told apart.

        First by the constants that an operator itself reads, then by what is already matched beside it,
        by name, and only then by order.
        (By order alone, two towers that a new version lists the other way round changed places.)
        """
        equal = self._about.equal_pairs() if self._about else {}
        common = dict(zip(equal, equal, strict=True)), {b: a for a, b in equal.items()}
        old = Looks(0, self._old, {}, common[0])
        new = Looks(1, self._new, self._common, common[1])
        self._same_key(old.by_constants, new.by_constants, Tier.ARCHITECTURE, 1)
        self._same_key(old.constants_alone, new.constants_alone, Tier.CONSTANTS, 1)
        self._same_key(old.like, new.like, Tier.ARCHITECTURE, 1)
        self._neighbours()
        self._same_key(old.named, new.named, Tier.ARCHITECTURE, 1)
        self._same_key(old.like, new.like, Tier.ARCHITECTURE)

    def _same_key(
        self,
        ours: Callable[[str], Hashable],
        theirs: Callable[[str], Hashable],
        tier: Tier,
        most: int | None = None,
    ) -> None:
        """Pairs tensors whose keys occur equally often on both sides, in topological order.

        Where a key is not unique, the neighbours of a pair follow at once: what is known of one layer
        decides about the next.

        Args:
          ours: key of a baseline's tensor.
          theirs: key of a candidate's tensor.
          tier: why equal keys are a match.
          most: how often a key may occur on a side.
        """
        groups = _grouped(self._free_new(), theirs)
        for key, names in _grouped(self._free_old(), ours).items():
            left = [name for name in names if name not in self._of_old]
            partners = [name for name in groups.get(key, ()) if name not in self._of_new]
            if len(partners) != len(left) or (most and len(left) > most):
                continue
            for name, partner in zip(left, partners, strict=True):
                self._take(name, partner, tier)
            if len(left) > 1:
                self._neighbours()

    def _same_name(self, tier: Tier) -> None:
        """Pairs equal names, unless a reader or a source says that they are different tensors."""
        free = set(self._free_new())
        for name in self._free_old():
            if name not in free:
                continue
            same = made_as(self._old, name) == made_as(self._new, name)
            if not same and self._fusions.is_written_otherwise(name, name):
                continue
            if same is (tier is Tier.NAME) and not self._contradicted(name):
                self._take(name, name, tier)

    def _contradicted(self, name: str) -> bool:
        """Whether all matched sources of a tensor stand for something that its namesake does not read."""
        ours, theirs = self._old.producer(name), self._new.producer(name)
        if ours is None or theirs is None:
            return True
        partners = [p for s in ours.sources() if (p := self._partner(s)) is not None]
        read = set(self._equal.reads(theirs))
        return bool(partners) and not any(p in read for p in partners)

    def _neighbours(self) -> None:
        """Follows new pairs to operators that have one counterpart only, until nothing is new."""
        while self._fresh:
            old, new = self._fresh.pop()
            for found in (self._readers(old, new), self._sources(old, new)):
                for ours, theirs in found:
                    same = made_as(self._old, ours) == made_as(self._new, theirs)
                    self._take(ours, theirs, Tier.NEIGHBOUR if same else Tier.FUSED)
            fused = self._fusions.after(old, new) if old not in self._held[0] else None
            if fused:
                self._take(*fused, Tier.FUSED)

    def _same_readers(self) -> None:
        """What matched operators read in the same place, though other operators make it."""
        for _ in range(_MOST_LOOKS):
            self._neighbours()
            taken = [self._take(*pair, Tier.FUSED) for pair in list(self._fusions.same_readers())]
            if not any(taken):
                break

    def _readers(self, old: str, new: str) -> Iterable[tuple[str, str]]:
        """Unmatched operators that read a pair in the same place, where both sides have one of a kind."""
        ours = _grouped(self._uses(0, old), lambda used: used[0])
        theirs = _grouped(self._uses(1, new), lambda used: used[0])
        for key, uses in ours.items():
            partners = theirs.get(key, [])
            if len(uses) == len(partners) == 1:
                made = zip(uses[0][1].outputs, partners[0][1].outputs, strict=False)
                yield from ((a, b) for a, b in made if a and b)

    def _uses(self, side: int, tensor: str) -> list[tuple[Hashable, Node]]:
        """(how, operator) of unmatched operators that read a tensor, or a constant equal to it."""
        graph, taken = ((self._old, self._of_old), (self._new, self._of_new))[side]
        return [
            (use_of(node, name), node)
            for name in self._equal.all_like(side, tensor)
            for node in unmatched_readers(graph, name, taken)
        ]

    def _sources(self, old: str, new: str) -> Iterable[tuple[str, str]]:
        """What a pair's own operators read, slot by slot, where the operators are the same."""
        ours, theirs = self._old.producer(old), self._new.producer(new)
        if ours is None or theirs is None:
            return
        if ours.op != theirs.op:
            found = self._fusions.roots(old, new)
            if found and self._fusions.alike(*found):
                yield found
            return
        if ours.op not in COMMUTATIVE:
            pairs = list(zip(ours.sources(), theirs.sources(), strict=False))
        else:
            reads = self._equal.reads(theirs)
            known = set(reads)
            left = [s for s in ours.sources() if self._partner(s) not in known]
            partners = {self._partner(s) for s in ours.sources()}
            right = [s for s in reads if s not in partners]
            pairs = list(zip(left, right, strict=True)) if len(left) == len(right) == 1 else []
        yield from (pair for pair in pairs if self._fusions.alike(*pair))

    def _lone_readers(self) -> None:
        """The only unmatched operator on either side that reads a pair, if it is no part of a fused step."""
        for old, match in list(self._of_old.items()):
            for pair in self._fusions.lone_readers(old, match.candidate):
                self._take(*pair, Tier.PLACE)
        self._neighbours()

    def _place(self, side: int, name: str, *, named: bool = False) -> Hashable:
        """Between which matched tensors one operator stands, in the candidate's names.

        Where that is not known of all of them, the tensor itself, which is nobody else's key. An
        operator that was replaced under another name has nothing else that stays, and its values may be
        cancelled further on, so that no output tells.

        Args:
          side: 0 baseline, 1 candidate.
          name: a tensor without a partner.
          named: its name stands for what it is read from.
        """
        graph, taken = ((self._old, self._of_old), (self._new, self._of_new))[side]
        node = graph.producer(name)
        readers = graph.consumers(name)
        above = [s for s in (node.sources() if node else ()) if s not in self._held[side]]
        below = [o for reader in readers for o in made_by(reader)]
        about = below if named else [*above, *below]
        known = {s: self._partner(s) if side == 0 else s for s in about}
        matched = all(s in taken or s in graph.inputs for s in known)
        if node is None or not ((above or named) and below and matched):
            return side, name
        uses = sorted((str(known[made_by(r)[0]]), *use_of(r, name)) for r in readers)
        begin = (name,) if named else tuple(sorted(map(str, known.values())))
        return begin, tuple(uses), node.outputs.index(name)

    def _pairs_of(self, given: Mapping[str, str], tier: Tier) -> None:
        """Pairs that are given by name; copies count as their originals."""
        for ours, theirs in given.items():
            a, b = self._old_copies.get(ours, ours), self._new_copies.get(theirs, theirs)
            if made_as(self._old, a) and made_as(self._new, b):
                self._take(a, b, tier)

    def _same_values(self, values: tuple[Fingerprints, Fingerprints]) -> None:
        """Pairs tensors whose values nobody else has; what only looks alike must not contradict these."""
        self._about = Surroundings((self._old, self._new), values, (self._of_old, self._of_new))
        self._lone_values()
        fast = {ours: match.candidate for ours, match in self._of_old.items()}
        self._about.stand_fast(fast, self._ends[0])
        # What only one version does on the way to equal tensors must not stand in the way of others.
        self._old, self._new = self._about.without_rewritten()
        self._fusions = Fusions((self._old, self._new), self._ends[0], self._of_old, self._of_new)

    def _lone_values(self) -> None:
        for ours, theirs in self._about.alone() if self._about else ():
            self._take(ours, theirs, Tier.VALUES)

    def _take(self, ours: str, theirs: str, tier: Tier, *, again: bool = False) -> bool:
        if ours in self._of_old or (theirs in self._of_new and not again):
            return False
        if tier in _LOOKS:
            found = self._fusions.ends(ours, theirs)
            if found and found != (ours, theirs):
                return self._take(*found, Tier.FUSED)
            early = tier in (Tier.ARCHITECTURE, Tier.NEIGHBOUR)
            if early and self._fusions.has_namesake(ours, theirs):
                return False
        if tier not in _SURE and not (
            self._ends[0].get(ours, theirs) == theirs and self._ends[1].get(theirs, ours) == ours
        ):
            # An output has its partner: (x + a) + b and x + c end alike and do not begin alike.
            return False
        if tier not in _FAST and self._about and self._about.against(ours, theirs):
            return False
        self._of_old[ours] = TensorMatch(baseline=ours, candidate=theirs, tier=tier)
        self._of_new.setdefault(theirs, ours)
        self._fresh.append((ours, theirs))
        return True

    def _partner(self, tensor: str) -> str | None:
        found = self._of_old.get(tensor)
        return self._anchors.get(tensor) if found is None else found.candidate

    def _free_old(self) -> list[str]:
        return [name for name in self._old.computed() if name not in self._of_old]

    def _free_new(self) -> list[str]:
        return [name for name in self._new.computed() if name not in self._of_new]


def _grouped(things: Iterable[_Thing], key: Callable[[_Thing], _Key]) -> dict[_Key, list[_Thing]]:
    groups: dict[_Key, list[_Thing]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups
