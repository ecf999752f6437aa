"""Whether the changes that a policy expects are changes of something that exists."""

from __future__ import annotations

from harness.core.errors import PolicyError, nearest
from harness.core.models import ModelGraph
from harness.core.policies import Policy, Scope


def check_expected_changes(
    policy: Policy, graphs: tuple[ModelGraph, ModelGraph], where: str
) -> None:
    """Refuses a name that neither version has: a typing error would let the real change count.

    Args:
      policy: its parity guardrails list what is meant to change.
      graphs: what is known of both versions.
      where: the policy file, as the user knows it.

    Raises:
      PolicyError: with the nearest name that there is.
    """
    known = {
        Scope.OUTPUTS: {o.name for graph in graphs for o in graph.signature.outputs},
        Scope.FEATURES: {n for graph in graphs for n in (*graph.features, *graph.fitted)},
    }
    for guardrail in policy.guardrails:
        if guardrail.scope is None:
            continue
        for name in guardrail.expected_changes:
            if name not in known[guardrail.scope]:
                raise PolicyError(
                    f"{where}, guardrail '{guardrail.name}'",
                    f"expects '{name}' to change, which is none of the versions' {guardrail.scope}",
                    f"Correct the name: {nearest(name, known[guardrail.scope])}.",
                )
