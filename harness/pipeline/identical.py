"""Whether two versions compute the same of the same inputs, whatever their tensors are called.

Then identical nodes compute what no trace returns, in every request: features that are sequences, outputs of a
type that no session hands out.
"""

from __future__ import annotations

from harness.core.models import ModelGraph, PinnedModel
from harness.core.policies import Mapping
from harness.pipeline.graph_pass import GraphLook
from harness.pipeline.opening import LegRecipe
from harness.pipeline.runtimes import same_bytes


def perhaps_identical(
    graphs: tuple[ModelGraph, ModelGraph], recipes: tuple[LegRecipe, LegRecipe], mapping: Mapping
) -> bool:
    """Whether digests speak for it, before both graphs are held against each other.

    Args:
      graphs: what is known of both versions.
      recipes: how they are opened.
      mapping: names that differ.
    """
    old, new = graphs
    alike = (old.arrangement, old.numbers) == (new.arrangement, new.numbers)
    return alike and _run_alike(graphs, recipes, mapping)


def identical(
    graphs: tuple[ModelGraph, ModelGraph],
    recipes: tuple[LegRecipe, LegRecipe],
    mapping: Mapping,
    models: tuple[PinnedModel, PinnedModel],
    look: GraphLook,
) -> bool:
    """Whether it is shown.

    Args:
      graphs: as for `perhaps_identical`.
      recipes: the same.
      mapping: the same.
      models: their bytes.
      look: what the graphs showed.
    """
    renamed = look.report is not None and look.report.same_graph
    same = renamed or (same_bytes(models) and not mapping.tensors)
    return same and _run_alike(graphs, recipes, mapping)


def _run_alike(
    graphs: tuple[ModelGraph, ModelGraph], recipes: tuple[LegRecipe, LegRecipe], mapping: Mapping
) -> bool:
    """Whether the same nodes give the same values in both: one runtime, one environment, nothing by chance."""
    old, new = graphs
    return (
        bool(old.runtime)
        and old.runtime == new.runtime
        and recipes[0].python == recipes[1].python
        and not mapping.inputs
        and not (old.random_operators or new.random_operators)
    )
