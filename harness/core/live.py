"""A comparison on running traffic, as a policy declares it before any traffic is split."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.core.policies import Direction

REQUESTS = "requests"
"""The clock on which values that come with the requests mature."""


class LiveKind(enum.StrEnum):
    """How a guardrail's values come about, which is which test they need."""

    PAIRED = "paired"
    """Shadow: both versions answered the request; the value is candidate − baseline."""
    SHIFT = "shift"
    """Canary: one arm answered; the value is its outcome, the margin a difference of means."""
    ERRORS = "errors"
    """Canary: 1 = the request failed; the margin is a ratio of the arms' error rates.

    Only errors are evidence: where neither arm has any, nothing is proven and a gating guardrail of
    this kind never promotes. Where errors are rare, let it report, and gate on SHIFT of the same 0/1.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGuardrail:
    """A metric with a margin, on running traffic."""

    name: str
    """Unique within the plan."""
    kind: LiveKind
    """Which test."""
    margin: float
    """Largest tolerated mean difference, > 0; for errors the largest tolerated ratio, ≥ 1."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """Mathematical bounds of one value; 0/1 for errors."""
    direction: Direction = Direction.INCREASE
    """Which side is harm; increase for errors."""
    gating: bool = True
    """False: reported, never decides."""
    gap: float | None = None
    """Expected distance of the mean from the margin; None = no plan."""
    second_moment: float | None = None
    """Paired: E(x − margin)²; shift: variance of an outcome; from data that are not tested."""
    label_maturity_s: float | None = None
    """Values are labels that count at this age; None = they come with the requests."""

    def clock(self) -> str:
        """Name of the clock that its values mature on."""
        age = self.label_maturity_s
        return REQUESTS if age is None else f"labels after {age:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How traffic is split, what counts once and when, and the tests."""

    guardrails: tuple[LiveGuardrail, ...]
    """At least one that gates."""
    steps: tuple[float, ...] = ()
    """Candidate's share of units in each ramp step, ascending, in (0, 1); none = shadow."""
    unit: str = ""
    """What enters once: the request field that names a user or a session; "" = each request."""
    maturity_s: float = 0.0
    """Age at which a unit closes; requests later than that are ignored."""
    cycle_s: float = 0.0
    """Declared cycle of the traffic (a day); promotion looks only at whole ones; 0 = none."""
    burst_gap_s: float = 0.0
    """Errors of units first seen closer than this count once; 0 = each counts."""
    burst_longest_s: float = 600.0
    """A burst that lasts longer counts again."""
    sample_ratio_alpha: float = 0.001
    """P(a working split is called broken) ≤ this."""
    alpha_promote: float = 0.05
    """P(promote while any gating guardrail is beyond its margin) ≤ this."""
    alpha_rollback: float = 0.05
    """P(rollback while all are within) ≤ this, over all clocks."""
