"""The versions of a gate against their own golden rows, before any traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core.findings import Finding
from harness.core.jsonable import jsonable
from harness.decide.facts import Facts
from harness.pipeline.golden import GoldenCheck, check_golden
from harness.pipeline.opening import LegRecipe, leg_recipe
from harness.pipeline.prepare import Prepared
from harness.sandbox.graphs import Looked


def golden_failures(
    prepared: Prepared, recipes: tuple[LegRecipe, LegRecipe], python: Path | None
) -> Facts | None:
    """Checks every version against its own golden rows and keeps the answers in the manifest.

    Args:
      prepared: the run.
      recipes: baseline's and candidate's legs.
      python: interpreter of the anchor's environment.

    Returns:
      What the decision rests on where a version does not reproduce its rows; else None.

    Raises:
      As `check_golden`.
    """
    legs, models = [*recipes], [prepared.baseline, prepared.candidate]
    if prepared.anchor is not None and isinstance(prepared.anchor_seen, Looked):
        # Golden rows hold features, which the anchor's own leg is never asked for.
        legs.append(
            leg_recipe(
                "anchor", prepared.anchor, prepared.anchor_seen.probe,
                limits=prepared.policy.sandbox, python=python,
                allow_weaker=prepared.request.allow_lower_isolation,
            )
        )  # fmt: skip
        models.append(prepared.anchor)
    checks = [check_golden(leg, model) for leg, model in zip(legs, models, strict=True)]
    prepared.manifest["golden"] = jsonable(checks)
    failures = {check.role: check.failure for check in checks}
    if not any(failures.values()):
        return None
    return Facts(
        windows=(),
        baseline_not_golden=failures["baseline"],
        candidate_not_golden=failures["candidate"],
        anchor_not_golden=failures.get("anchor", ""),
    )


def golden_findings(manifest: dict[str, Any]) -> list[Finding]:
    """Findings of the checks that a manifest holds."""
    return [finding for check in _checks(manifest) for finding in check.findings()]


def not_golden(manifest: dict[str, Any]) -> tuple[str, ...]:
    """One sentence a version without golden rows."""
    return tuple(text for check in _checks(manifest) for text in check.not_compared())


def flaky_on_golden(manifest: dict[str, Any], role: str) -> int:
    """How often a version's process failed on its golden rows, and passed the second time."""
    return sum(check.flaky for check in _checks(manifest) if check.role == role)


def _checks(manifest: dict[str, Any]) -> list[GoldenCheck]:
    return [GoldenCheck(**saved) for saved in manifest.get("golden", ())]
