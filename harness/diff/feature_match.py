"""Which declared features of two versions stand for each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.core.models import ModelGraph
from harness.core.policies import Mapping as NameMapping


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMatch:
    """Which declared tensors of the two versions stand for each other."""

    raw: tuple[tuple[str, str], ...]
    """(baseline's, candidate's) features computed from raw fields, in the graph's order."""
    fitted: tuple[tuple[str, str], ...]
    """The same after fitted constants."""
    baseline_only: tuple[str, ...]
    """Declared by the baseline alone."""
    candidate_only: tuple[str, ...]
    """Declared by the candidate alone."""


def match_features(
    baseline: ModelGraph, candidate: ModelGraph, mapping: NameMapping
) -> FeatureMatch:
    """Pairs declared tensors by name, after the policy's mapping.

    A tensor that either version declares as a feature counts as one: declaring it fitted on one
    side does not take it out of the gate.
    """
    renamed = dict(mapping.tensors)
    theirs = set(candidate.features) | set(candidate.fitted)
    raw_theirs = set(candidate.features)
    ours = _in_graph_order(dict.fromkeys((*baseline.features, *baseline.fitted)), baseline.tensors)
    pairs = [(name, renamed.get(name, name)) for name in ours]
    both = [(a, b) for a, b in pairs if b in theirs]
    taken = {b for _, b in both}
    raw = [(a, b) for a, b in both if a in baseline.features or b in raw_theirs]
    return FeatureMatch(
        raw=tuple(raw),
        fitted=tuple(pair for pair in both if pair not in raw),
        baseline_only=tuple(a for a, b in pairs if b not in theirs),
        candidate_only=tuple(
            n for n in dict.fromkeys((*candidate.features, *candidate.fitted)) if n not in taken
        ),
    )


def _in_graph_order(names: Collection[str], tensors: Sequence[str]) -> list[str]:
    """Topological order; names the graph does not compute (inputs) come first."""
    place = {name: i for i, name in enumerate(tensors)}
    return sorted(names, key=lambda name: place.get(name, -1))
