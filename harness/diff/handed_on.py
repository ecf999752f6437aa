"""Tensors that neither version computes: what both hand on from their inputs is compared bit by bit.

Rounding has no part in these, so nothing is allowed for it: an identifier of 2e7 in float32 that is 16 more is
another one, and far within a tolerance of 1e-6. Where one version computes it, or a cast in one version changed
its type, the tolerance stays: it may be rounded there.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.core.graphs import Graph
from harness.core.models import ModelGraph

Told = ModelGraph | Graph


def handed_on_by_both(
    baseline: Told, candidate: Told, pairs: Iterable[tuple[str, str]]
) -> frozenset[str]:
    """The baseline's names of those matched tensors that both versions hand on.

    Args:
      baseline: its graph.
      candidate: the same.
      pairs: (baseline's, candidate's) names.
    """
    return frozenset(
        ours
        for ours, theirs in pairs
        if ours in baseline.handed_on and theirs in candidate.handed_on
    )
