"""Which tensors of two graphs stand for each other, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Tier(enum.StrEnum):
    """Why two tensors stand for each other, best first."""

    IDENTICAL = "identical"
    """The same computation from the same inputs with the same weights."""
    DECLARED = "declared"
    """Both versions declare them as the same feature."""
    MAPPED = "mapped"
    """The user says so."""
    ARCHITECTURE = "architecture"
    """The same computation but for weights."""
    CONSTANTS = "constants"
    """The only operator of its kind that reads these very constants, on both sides."""
    NEIGHBOUR = "neighbour"
    """The only operator of its kind beside an already matched pair, on both sides."""
    NAME = "name"
    """The same name and operator."""
    DOWNSTREAM = "downstream"
    """The same operator and the same way on to the outputs."""
    RENAMED_OPERATOR = "name, other operator"
    """The same name, made by another operator: what a fusion keeps."""
    PLACE = "neighbours, other operator"
    """Read by the same operators, and from the same tensors or of the same name, alone on both sides."""
    FUSED = "fused or split"
    """Read by the same operators, and made by one operator in one version and by others in the other."""
    OUTPUT = "output"
    """The outputs that the signature pairs."""
    VALUES = "values"
    """The same values on the same requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMatch:
    """Two tensors that stand for each other."""

    baseline: str
    """Name in the baseline's graph."""
    candidate: str
    """Name in the candidate's graph."""
    tier: Tier
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphMatch:
    """Which tensors of two graphs stand for each other."""

    pairs: tuple[TensorMatch, ...]
    """In the baseline's topological order; copies made by Identity included."""
    baseline_only: tuple[str, ...]
    """Computed tensors of the baseline without a partner."""
    candidate_only: tuple[str, ...]
    """Computed tensors of the candidate without a partner."""

    def by_baseline(self) -> dict[str, TensorMatch]:
        """Baseline's tensor → its match."""
        return {pair.baseline: pair for pair in self.pairs}

    def tiers(self) -> dict[Tier, int]:
        """How many tensors each tier matched; tiers without any are left out."""
        counts = {tier: sum(p.tier is tier for p in self.pairs) for tier in Tier}
        return {tier: count for tier, count in counts.items() if count}

    def coverage(self) -> str:
        """As told to people: `95 of 95 tensors of the baseline matched, 95 of 97 of the candidate`."""
        old = len(self.pairs)
        new = len({pair.candidate for pair in self.pairs})
        return (
            f"{old} of {old + len(self.baseline_only)} tensors of the baseline matched, "
            f"{new} of {new + len(self.candidate_only)} of the candidate"
        )
