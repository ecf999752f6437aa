"""What a parity guardrail was asked about and nobody compared, in words."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.policies import Guardrail, Scope

COVER = {
    Scope.OUTPUTS: (
        "List the output under `expected_changes` of a guardrail with `scope: outputs`, or drop the guardrail."
    ),
    Scope.FEATURES: (
        "Declare each in the candidate's metadata (harness.features) under the name of a tensor that its graph "
        "computes, or map it to one (`mapping: {tensors: {FEATURE: TENSOR}}`); what is meant to go: list it under "
        "`expected_changes` of the guardrail, or drop that where none is left."
    ),
}
"""What brings a scope's tensors under comparison."""
_SPELLED_OUT = 5


def next_without_data(guardrails: Sequence[Guardrail]) -> str:
    """What would settle a HOLD for want of any value.

    Args:
      guardrails: those that nothing was measured for.
    """
    why = "Find out why (findings, what was not compared), or drop the guardrail."
    emptied = [g.name for g in guardrails if g.expected_changes]
    if not emptied:
        return why
    return (
        f"Where all that '{emptied[0]}' compares is under its expected_changes, write `drop: [{emptied[0]}]` in its "
        f"place (of a guardrail that no preset has: leave it out). {why}"
    )


def sentence_about_uncovered(scope: Scope, lost: Sequence[tuple[str, str]]) -> str:
    """Says what was not compared, together by reason.

    Args:
      scope: outputs or features.
      lost: (name, why), at least one.
    """
    parts = []
    for why in dict.fromkeys(why for _, why in lost):
        names = [f"'{name}'" for name, reason in lost if reason == why]
        more = len(names) - _SPELLED_OUT
        shown = ", ".join(names[:_SPELLED_OUT]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"{shown} ({why})")
    one, many = scope.value[:-1], scope.value
    count = f"1 {one}" if len(lost) == 1 else f"{len(lost)} {many}"
    return f"{count} of the baseline could not be compared: {'; '.join(parts)}."
