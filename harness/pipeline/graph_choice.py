"""Which tensors of a large graph are looked at: some in all of it, and then those about a difference.

What onnxruntime takes to load a copy grows with the square of the tensors that the copy returns, by sketches
sooner (each is nine operators more): 50,000 whole ones 15 s, 10,000 of the same net 2.6 s, 4,000 by
sketches 26 s, 1,000 below 2 s. A difference is found all the same: somewhere behind it a chosen tensor
differs, and what lies between that and the last equal one is looked at in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.graphs import Graph
from harness.diff.graph_match import GraphMatch

MOST_WHOLE = 10_000
"""Tensors that one copy returns whole."""
MOST_SKETCHED = 1000
"""Tensors that one copy returns by sketches."""
MOST_ABOUT = 500
"""Tensors about the first differences that are looked at in one step."""
LEAST_ABOUT = 8
"""Of these about one difference, also where memory is scarce: a step has to lead on."""


def evenly(names: Sequence[str], most: int) -> list[str]:
    """So many of these, evenly spread, the last among them; all where they are no more."""
    if len(names) <= most:
        return list(names)
    ends = np.linspace(0, len(names), most + 1)[1:].astype(np.int64)
    return [names[end - 1] for end in ends]


def chosen(match: GraphMatch, graphs: tuple[Graph, Graph], most: int) -> dict[str, str]:
    """Pairs of computed tensors that are looked at: baseline's → candidate's, in topological order.

    Args:
      match: all pairs.
      graphs: both versions'.
      most: how many.
    """
    ours, theirs = (set(graph.computed()) for graph in graphs)
    partners = {
        p.baseline: p.candidate for p in match.pairs if p.baseline in ours and p.candidate in theirs
    }
    return {name: partners[name] for name in evenly(list(partners), most)}
