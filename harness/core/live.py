"""A comparison on running traffic, as a policy declares it before any traffic is split."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.core.policies import DecisionRule, Direction, Loss
from harness.core.verdicts import Decision

REQUESTS = "requests"
"""The clock on which values that come with the requests mature."""

SHORTEST_BLOCK_S = 0.001
"""A time block of live traffic lasts at least so long: times are whole nanoseconds."""


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


class LiveMetric(enum.StrEnum):
    """Where a guardrail's values come from; the words of a gate's metrics where they mean the same."""

    GIVEN = "given"
    """Whoever sends observations sends them."""
    SCORE = "score_shift"
    """The positive class's score; paired: candidate's minus baseline's."""
    RATE = "decision_rate_shift"
    """1 where the decision is the positive one; paired: candidate's minus baseline's."""
    FLIP = "decision_flip"
    """Paired: 1 where the decisions differ."""
    PARITY = "parity_mismatch"
    """Paired: 1 where an output differs beyond its tolerance."""
    FAILURE = "failure"
    """1 where there is no answer; paired: candidate's minus baseline's."""
    NAN = "nan_rate"
    """1 where an output is NaN, or a score or decision that a guardrail reads is outside of 0 and 1;
    paired: candidate's minus baseline's."""
    LATENCY = "latency"
    """Split: 1 where it took longer than `slower_than_s`, else its seconds, cut off at the range's end."""
    LOSS = "loss_difference"
    """Split: the loss of the unit's first answer, once its label is known."""


class UnitIn(enum.StrEnum):
    """Where a request names its unit."""

    METADATA = "metadata"
    """A key of the call's metadata; nothing of the request is read on its way."""
    PARAMETER = "parameter"
    """A parameter of the request."""
    INPUT = "input"
    """An input with one value."""


class OnFailure(enum.StrEnum):
    """What a client gets whose request the candidate failed."""

    REPORT = "report"
    """The candidate's error: what is judged is what users meet, and no load is added to the baseline."""
    BASELINE = "baseline"
    """The baseline's answer to the same request; the candidate's failure counts all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """How long a canary stays at each step, and how long it may take."""

    stay_s: float = 0.0
    """Least time at a step."""
    stay_requests: int = 0
    """Least requests at a step that enter the tests (a unit enters once), both arms together."""
    budget_s: float | None = None
    """Without a verdict by then: HOLD; None = no end."""
    budget_requests: int | None = None
    """The same in requests."""


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
    metric: LiveMetric = LiveMetric.GIVEN
    """Where its values come from."""
    loss: Loss | None = None
    """For `LiveMetric.LOSS`: what an answer costs once its label is known."""
    slower_than_s: float | None = None
    """For `LiveMetric.LATENCY`: what takes longer counts 1."""

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
    """What enters once: the request field that names a user or a session; "" = each request, or `block_s`."""
    maturity_s: float = 0.0
    """Age at which a unit closes; requests later than that are ignored."""
    block_s: float = 0.0
    """Shadow: requests of one time block of this length count once, as their mean; 0 = `unit`."""
    cycle_s: float = 0.0
    """Declared cycle of the traffic (a day); promotion looks only at whole ones; 0 = none."""
    quiet_s: float | None = None
    """Longest stretch without requests in a cycle that counts; None = a 24th of the cycle."""
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
    unit_in: UnitIn = UnitIn.METADATA
    """Where a request names its unit."""
    ramp: Ramp = Ramp()
    """Least stay at each step, and budget."""
    on_failure: OnFailure = OnFailure.REPORT
    """What a client gets whose request the candidate failed."""
    patience_s: float = 10.0
    """A call without an answer for so long counts as failed."""
    decision: DecisionRule | None = None
    """How an answer becomes a score and a decision, for the metrics that need it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a canary or a shadow stands, as it is told to whoever follows."""

    ts_ns: int
    """By the clock of the process that judges."""
    decision: Decision
    """HOLD also means "not yet": see `final`."""
    reason: str
    """Stable word: undecided, guardrail_failed, all_guardrails_pass, sample_ratio_mismatch …"""
    explanation: str
    """One or two plain sentences."""
    final: bool
    """Traffic goes to one version from now on, and nothing more is judged."""
    step: int = 0
    """Of the ramp, from 0."""
    share: float = 0.0
    """Candidate's share of units in force."""
    n_requests: int = 0
    """Requests that entered."""
    arms: tuple[int, int] = (0, 0)
    """Of these, by the arm that answered: (baseline, candidate)."""
    n_units: int = 0
    """Units ever exposed."""
    n_closed: int = 0
    """Units that entered the tests."""
    sample_ratio_p: float = 1.0
    """Always-valid p-value of the declared split."""
    culprits: tuple[str, ...] = ()
    """Guardrails proven beyond their margin."""
    log_e_rollback: tuple[tuple[str, float], ...] = ()
    """(clock, natural log of its averaged rollback e-value)."""
    promote_at: tuple[tuple[str, float], ...] = ()
    """(guardrail, natural log of its promotion e-value where promotion looked last)."""
    counts: tuple[tuple[str, int], ...] = ()
    """(what, how many) of everything that entered nothing, and of what was lost."""
    notes: tuple[str, ...] = ()
    """At the end: what was not measured or not compared, each as a sentence."""
