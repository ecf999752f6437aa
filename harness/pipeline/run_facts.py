"""What happened when versions were looked at and legs were opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.jsonable import jsonable
from harness.decide.facts import Facts
from harness.pipeline.prepare import Prepared
from harness.replay.legs import Leg
from harness.sandbox.graphs import Looked
from harness.sandbox.hello import LoadFailure
from harness.sandbox.isolation import Isolation, is_weaker, weakest
from harness.sandbox.starting import limit_of


def load_facts(baseline: Looked | LoadFailure, candidate: Looked | LoadFailure) -> Facts:
    """Facts of a run in which a version did not load when it was looked at."""
    old, new = (v if isinstance(v, LoadFailure) else None for v in (baseline, candidate))
    return _loading(baseline=old, candidate=new)


def anchor_facts(failure: LoadFailure) -> Facts:
    """Facts of a run whose anchor did not load."""
    return _loading(anchor=failure)


def opening_failures(baseline: Leg, candidate: Leg, anchor: Leg | None) -> Facts | None:
    """Facts about versions that loaded when looked at and do not load in their leg."""
    if anchor is not None and anchor.load_failure is not None:
        return anchor_facts(anchor.load_failure)
    old, new = baseline.load_failure, candidate.load_failure
    if old is None and new is None:
        return None
    return _loading(baseline=old, candidate=new)


def _loading(**failures: LoadFailure | None) -> Facts:
    """Facts about versions that do not load, by role."""
    failed = {role: failure for role, failure in failures.items() if failure is not None}
    said = {role: failure.message for role, failure in failed.items()}
    return Facts(
        windows=(),
        baseline_load_failure=said.get("baseline", ""),
        candidate_load_failure=said.get("candidate", ""),
        anchor_load_failure=said.get("anchor", ""),
        load_limits={role: limit for role, f in failed.items() if (limit := limit_of(f))},
        not_tried=tuple(role for role, failure in failed.items() if failure.unseen),
    )


def isolation_json(prepared: Prepared, *legs: Leg) -> dict[str, Any]:
    """What was really obtained: the weakest of the versions' legs, with every layer."""
    found = weakest(leg.first.isolation for leg in legs if leg.first)
    return _told(found, prepared.policy.sandbox.require) | {
        "versions": {leg.name: leg.first.versions for leg in legs if leg.first},
    }


def isolation_of_look(
    seen: Mapping[str, Looked | LoadFailure | None], required: str
) -> dict[str, Any]:
    """The weakest isolation in which the versions were looked at, of a run that replayed nothing.

    Args:
      seen: what the look gave by role; None where there is no such version.
      required: the policy's tier.

    Returns:
      As `isolation_json`, without `versions` and with `looked`; why it is not known, where a process ended
      before it said what it was closed in.
    """
    inside = {role: found.isolation for role, found in seen.items() if found is not None}
    silent = [role for role, isolation in inside.items() if isolation is None]
    if silent:
        why = f"not known: the process of the {' and that of the '.join(silent)} ended before it said so"
        return {"looked": True, "required": required, "why": why}
    found = weakest(isolation for isolation in inside.values() if isolation is not None)
    return _told(found, required) | {"looked": True}


def _told(found: Isolation, required: str) -> dict[str, Any]:
    return {
        "tier": found.tier,
        "required": required,
        "layers": jsonable(found.layers),
        "self_tests": jsonable(found.self_tests),
        "allowed_below": is_weaker(found, required),
    }
