"""Evidence and decisions, as values that `store` saves and `report` shows."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


class Decision(enum.StrEnum):
    """The three answers."""

    PROMOTE = "PROMOTE"
    ROLLBACK = "ROLLBACK"
    HOLD = "HOLD"


class Verdict(enum.StrEnum):
    """One guardrail's answer."""

    PASS = "PASS"  # noqa: S105
    """Proven within the margin."""
    FAIL = "FAIL"
    """Proven beyond the margin."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Neither, with the traffic at hand."""
    NO_DATA = "NO_DATA"
    """Nothing could be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPoint:
    """The evidence after n requests."""

    n: int
    """Requests seen by the guardrail."""
    lower: float
    """Lower end of the 1 − α confidence sequence of the mean."""
    upper: float
    """Upper end."""
    log_e_promote: float
    """Natural log of the promotion e-value (the smaller side for direction both)."""
    log_e_rollback: float
    """Natural log of the rollback e-value (sides averaged for direction both)."""

    def row(self) -> tuple[int, float, float, float, float]:
        """Plain values, in the order of the fields; `from_row` makes them a look again."""
        return self.n, self.lower, self.upper, self.log_e_promote, self.log_e_rollback

    @classmethod
    def from_row(cls, row: Sequence[float | str]) -> Self:
        """What `row` gave."""
        # JSON has no infinity; its word for it becomes the number again.
        n, lower, upper, promote, rollback = (float(value) for value in row)
        return cls(
            n=int(n), lower=lower, upper=upper, log_e_promote=promote, log_e_rollback=rollback
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one guardrail (or one of its slices) has shown."""

    name: str
    """Guardrail's name; slices as name[column=value], the pooled ones as name[column=rest]."""
    guardrail: str
    """Name in the policy."""
    metric: str
    window: str
    slice: str
    """ "" for all traffic, else column=value."""
    margin: float
    direction: str
    gating: bool
    verdict: Verdict
    reason: str
    """One sentence: why this verdict."""
    subject: str
    """What the verdict is about: "mean" or "clipped mean" over which requests."""
    n: int
    """Requests that entered."""
    n_available: int
    """Requests the window holds for it."""
    n_failed: int
    """Of n: failed or NaN pairs, counted as the worst value for promotion and the best for rollback."""
    e_promote: float
    """Promotion e-value, capped at 1e300."""
    e_rollback: float
    lower: float
    """Confidence sequence at the end."""
    upper: float
    weight: float
    """Share in the rollback average."""
    path: tuple[PathPoint, ...]
    """At batch ends, thinned to at most 400 points, the last one kept."""
    proven: PathPoint | None = None
    """The look at which harm was proven; None = it never was. Later looks may lie elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What all guardrails together have shown at one look."""

    rollback: bool
    """Harm is proven; once true it stays true, as Ville's inequality covers every look."""
    promote_ready: bool
    """Every gating test has proven its margin; false when there is none or one has no data."""
    log_e_rollback_combined: float
    """Natural log of the weighted average of the gating rollback e-values."""
    culprits: tuple[str, ...]
    """Evidence names proven beyond their margin (e-BH), strongest first; may be empty in a rollback."""
    shares: tuple[tuple[str, float], ...]
    """(evidence name, its share of the weighted average), largest first; no proof by themselves."""
    alpha_promote: float
    """Level the promotion e-values are held to: 1/α."""
    alpha_rollback: float
    """Level the combined rollback e-value is held to: 1/α."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """What `decision.json` holds."""

    decision: Decision
    reason: str
    """Stable word: all_guardrails_pass, guardrail_failed, candidate_fails, candidate_does_not_load, empty_window …"""
    explanation: str
    """Two or three plain sentences for a release manager."""
    binding_guardrail: str
    """Evidence name that bound the decision; "" when none did."""
    next: str
    """What would settle a HOLD, or what to do next."""
    n_requests: int
    """Pairs judged over all windows."""
    n_window: int
    """Requests available over all windows."""
    alpha: dict[str, float]
    attempt: int
    """1 for the first gate over this candidate, baseline and policy."""
    not_compared: tuple[str, ...]
    """What the gate did not look at, each as a sentence."""
