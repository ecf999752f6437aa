"""What a parity guardrail was asked about and nobody compared, in words."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.policies import Scope

COVER = {
    Scope.OUTPUTS: "List the output under expected_changes, or drop the guardrail.",
    Scope.FEATURES: (
        "Declare each in the candidate's metadata (harness.features) under the name of a tensor that "
        "its graph computes, map that name under mapping.tensors, or list it under expected_changes."
    ),
}
"""What brings a scope's tensors under comparison."""
_SPELLED_OUT = 5


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
