"""What to do about features and outputs that were not compared or changed: in a gate, and in a comparison.

A gate has a policy, whose guardrails may list what is meant to change; a comparison has options, and tells
every difference.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from harness.core.policies import Scope


class Asker(enum.Enum):
    """Who compares."""

    GATE = enum.auto()
    """A gate, with a policy."""
    COMPARISON = enum.auto()
    """`harness compare`, with options."""


def expected(scope: Scope) -> str:
    """Where a gate's policy lists what is meant to change."""
    return f"under `expected_changes` of a guardrail with `scope: {scope.value}`"


def undeclared(names: Sequence[str], asker: Asker) -> str:
    """What to do about features that the baseline alone declares.

    Args:
      names: the features.
      asker: who compares.
    """
    name = names[0] if names else "FEATURE"
    declare = "Declare the same in the candidate's metadata (harness.features)"
    if asker is Asker.COMPARISON:
        return f"{declare}, or say which of its tensors it is: --map 'tensors:{name}=TENSOR'."
    return (
        f"{declare}, say which of its tensors it is (`mapping: {{tensors: {{{name}: TENSOR}}}}`), or, where it is "
        f"meant to go, list it {expected(Scope.FEATURES)}, which is to be dropped where none is left."
    )


def one_sided(asker: Asker) -> str:
    """What to do about tensors of one side that decide nothing."""
    how = "`mapping: {tensors: {OLD: NEW}}`" if asker is Asker.GATE else "--map tensors:OLD=NEW"
    return f"Declare the same features in both versions' metadata, or pair their names: {how}."


def by_chance(asker: Asker) -> str:
    """What to do about features that a random operator is before."""
    return f"Take the random operator out{_listed('the feature', Scope.FEATURES, asker)}."


def untraced(asker: Asker) -> str:
    """What to do about features that a trace does not return."""
    why = (
        "A trace returns tensors with a row for each row of a request: what was not compared says why this one "
        "does not come. Declare such a tensor in its place"
    )
    return f"{why}{_listed('the feature', Scope.FEATURES, asker)}."


def reshaped(asker: Asker) -> str:
    """What to do about an output of another shape."""
    return (
        "Clients read the shape: give the candidate the baseline's"
        f"{_listed('the output, when they are ready for it,', Scope.OUTPUTS, asker)}."
    )


def small(asker: Asker) -> str:
    """What to do about values far below a column's large ones that moved."""
    meant = (
        " What is meant to change belongs under `expected_changes` of a guardrail;"
        if asker is Asker.GATE
        else ""
    )
    return (
        "Look at the requests with the smallest answers: rounding changes few of them by so much."
        f"{meant} {'a' if meant else 'A'} score in its logarithm is compared at every size."
    )


def rounding(asker: Asker) -> str:
    """What to do about differences of the size of rounding."""
    meant = (
        "Where a sum is known to be taken in another order, list this under `expected_changes` of a guardrail; else "
        if asker is Asker.GATE
        else "Where no sum is known to be taken in another order, "
    )
    return f"{meant}compare how both versions compute it."


def _listed(what: str, scope: Scope, asker: Asker) -> str:
    return f", or list {what} {expected(scope)}" if asker is Asker.GATE else ""
