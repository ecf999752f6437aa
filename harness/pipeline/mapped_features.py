"""Features that one version declares and `mapping.tensors` finds in the other, which does not declare them.

The mapping says which tensor stands for the feature, as the metadata would: the other version's copy returns it,
too, and it is compared in every request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.models import ModelGraph, PinnedModel
from harness.core.policies import Mapping, SandboxPolicy
from harness.sandbox.graphs import Looked, probe


def with_mapped_features(
    seen: tuple[Looked, Looked],
    models: Sequence[PinnedModel],
    mapping: Mapping,
    limits: SandboxPolicy,
    copies: Sequence[Path],
    pythons: Sequence[Path | None],
    *,
    allow_weaker: bool,
) -> tuple[Looked, Looked]:
    """Declares in each version what the other declares and the mapping names; probes it again for these.

    Args:
      seen: baseline and candidate.
      models: their pinned files.
      mapping: the baseline's tensor → the candidate's.
      limits: the policy's.
      copies: where their probed copies go.
      pythons: interpreters of their own environments; None = the running one.
      allow_weaker: go on below the required isolation.

    Raises:
      UsageError: the isolation is weaker than required, or a file cannot be read.
    """
    graphs = (seen[0].graph, seen[1].graph)
    back = tuple((theirs, ours) for ours, theirs in mapping.tensors)
    declared = (
        _declared(graphs[0], graphs[1], back),
        _declared(graphs[1], graphs[0], mapping.tensors),
    )
    found = []
    for one, graph, model, copy, python in zip(
        seen, declared, models, copies, pythons, strict=True
    ):
        if graph == one.graph:
            found.append(one)
            continue
        tensors = (*graph.features, *graph.fitted)
        again = probe(
            model.path, tensors, copy, limits,
            external=model.external, python=python, allow_weaker=allow_weaker,
        )  # fmt: skip
        found.append(replace(one, graph=graph, probe=again))
    return found[0], found[1]


def _declared(graph: ModelGraph, other: ModelGraph, pairs: Sequence[tuple[str, str]]) -> ModelGraph:
    """A version with what it computes of the other's declared tensors.

    Args:
      graph: the version.
      other: the other one.
      pairs: (the other's name, this version's name).
    """
    there = {*graph.tensors, *(output.name for output in graph.signature.outputs)}
    new = [p for p in pairs if p[1] in there and p[1] not in {*graph.features, *graph.fitted}]
    return replace(
        graph,
        features=(*graph.features, *(ours for theirs, ours in new if theirs in other.features)),
        fitted=(
            *graph.fitted,
            *(o for t, o in new if t in other.fitted and t not in other.features),
        ),
    )
