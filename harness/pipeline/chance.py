"""Outputs and features that a random operator is before: no two runs agree on them, not even with a seed.

They are found in the graphs before anything runs, so what is said of them does not depend on how often
the processes happened to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.core.findings import Finding, Severity
from harness.core.models import ModelGraph


def by_chance(
    graphs: tuple[ModelGraph, ModelGraph], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Which tensors either version computes from a random operator.

    Args:
      graphs: baseline's and candidate's.
      pairs: (baseline's, candidate's) outputs or features.

    Returns:
      Baseline's tensor → who makes it by chance: `the baseline's RandomNormal → n`.
    """
    ours, theirs = (dict(graph.random_tensors) for graph in graphs)
    found = {}
    for a, b in pairs:
        if a in ours:
            found[a] = f"the baseline's {ours[a]}"
        elif b in theirs:
            found[a] = f"the candidate's {theirs[b]}"
    return found


def findings_from_chance(found: Mapping[str, str]) -> list[Finding]:
    """One warning a tensor, which names the operator.

    Args:
      found: what `by_chance` returned.
    """
    return [
        Finding(
            kind="nondeterministic", severity=Severity.WARNING, where=name,
            what=f"{name} is computed from a random operator, {why}: its values change from run to run, "
            "a seed or not, so a difference says nothing about the versions",
            remedy="Take the random operator out before comparing versions.",
        )
        for name, why in found.items()
    ]  # fmt: skip
