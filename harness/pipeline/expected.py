"""Whether what a policy names exists: before anything is replayed, as a typing error costs no replay."""

from __future__ import annotations

import math

from harness.core.errors import PolicyError, nearest
from harness.core.models import ModelGraph
from harness.core.policies import Policy, Rule, Scope
from harness.core.tensors import NUMPY_DTYPES, Signature
from harness.judge.answers import COUNTED, lacks_column


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


def check_decision(policy: Policy, baseline: Signature, where: str) -> None:
    """Refuses a decision about an output, or a column of it, that the baseline does not declare.

    Of a free dimension nothing is known before it answers.

    Args:
      policy: names the outputs.
      baseline: what it takes and returns.
      where: the policy file, as the user knows it.

    Raises:
      PolicyError: with the nearest name, or the columns that there are.
    """
    rule = policy.decision
    if rule is None:
        return
    outputs = {spec.name: spec for spec in baseline.outputs}
    for key, name in (("output", rule.output), ("score", rule.score)):
        if name is None:
            continue
        if name not in outputs:
            raise PolicyError(
                f"{where}, decision.{key}",
                f"the baseline has no output '{name}'",
                f"Name one of its outputs; {nearest(name, outputs)}",
            )
        spec, read = outputs[name], key == "score" or rule.rule is not Rule.NONE
        known = [dimension for dimension in spec.shape if dimension is not None]
        unknown = spec.any_rank or len(known) < len(spec.shape)
        if not read or spec.datatype not in NUMPY_DTYPES or unknown:
            continue
        if (width := math.prod(known)) and lacks_column(rule, width):
            what = f"column {rule.positive} is outside the baseline's output {spec.shown()}"
            raise PolicyError(f"{where}, decision.positive", what, COUNTED)
