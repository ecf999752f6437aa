"""What a comparison knows before it runs anything."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.models import ModelGraph, PinnedModel, Rearrangement
from harness.core.policies import GraphPolicy, Mapping
from harness.diff.signature import SignatureMatch
from harness.pipeline.golden import GoldenCheck
from harness.pipeline.opening import LegRecipe
from harness.store.windows import SealedWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Two versions and the inputs, ready to run."""

    window: SealedWindow
    match: SignatureMatch
    recipes: tuple[LegRecipe, LegRecipe]
    graphs: tuple[ModelGraph, ModelGraph]
    models: tuple[PinnedModel, PinnedModel]
    mapping: Mapping
    looked_into: GraphPolicy
    declared: tuple[tuple[str, str], ...]
    """(old, new) features and fitted constants that both versions declare."""
    random: dict[str, str]
    """Old version's outputs and features that are computed from a random operator → which one."""
    golden: tuple[GoldenCheck, ...]
    """Old and new version against their own golden rows."""

    @property
    def rearranged(self) -> Rearrangement:
        """What both graphs show of their numbers."""
        return self.graphs[0].rearrangement(self.graphs[1], renamed=self.mapping.renames())
