"""What a live test asks, and the values it is given and gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.core.errors import PolicyError
from harness.core.jsonable import sha256
from harness.core.live import SHORTEST_BLOCK_S, LiveGuardrail, LiveKind
from harness.core.policies import Direction
from harness.core.tensors import Array, Floats, Ints
from harness.core.verdicts import Decision
from harness.judge.cohorts import clock_levels
from harness.judge.exposures import Requests
from harness.judge.sample_ratio import ALPHA

_LARGEST_ALPHA = 0.5
"""Above it an answer would be wrong more often than a coin."""

_LONGEST_S = 100 * 366 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePlan:
    """All tests of one live comparison, fixed before traffic is split."""

    guardrails: tuple[LiveGuardrail, ...]
    """At least one."""
    maturity_s: float
    """Age at which a unit closes; requests later than that are ignored."""
    block_s: float = 0.0
    """Paired only: requests of one time block of this length count once, as their mean, when its
    time is over; names of units are not read then. 0 = units as requests name them."""
    alpha_promote: float = 0.05
    """P(promote while any gating guardrail is beyond its margin) ≤ this."""
    alpha_rollback: float = 0.05
    """P(rollback while all are within) ≤ this, over all clocks."""
    cycle_s: float = 0.0
    """Declared cycle of the traffic (a day); promotion looks only at whole ones; 0 = none."""
    quiet_s: float | None = None
    """Longest stretch without requests in a cycle that counts as whole; None = a 24th of the cycle."""
    burst_gap_s: float = 0.0
    """Errors of units first seen closer than this count once; 0 = each counts."""
    burst_longest_s: float = 600.0
    """A burst that lasts longer counts again."""
    sample_ratio_alpha: float = ALPHA
    """P(a working split is called broken) ≤ this."""
    names_recur: bool = True
    """Whether a unit may come again; False where each request has a name of its own."""

    def __post_init__(self) -> None:
        """Checks.

        Raises:
          PolicyError: a value outside its range, or two guardrails of one name.
        """
        for name, alpha in (
            ("alpha.promote", self.alpha_promote),
            ("alpha.rollback", self.alpha_rollback),
            ("sample ratio", self.sample_ratio_alpha),
        ):
            if not 0.0 < alpha <= _LARGEST_ALPHA:
                what = f"{alpha:g} is not in (0, {_LARGEST_ALPHA:g}]"
                raise PolicyError(name, what, "Use a level like 0.05.")
        names = [guardrail.name for guardrail in self.guardrails]
        if not names or len(set(names)) < len(names):
            what = f"guardrails {names}"
            raise PolicyError("guardrails", what, "Name at least one, and each differently.")
        for guardrail in self.guardrails:
            _check(guardrail)
        self._check_ages()
        self._check_blocks()

    def closing_s(self) -> float:
        """Age at which what counts once is closed."""
        return self.block_s or self.maturity_s

    def _check_blocks(self) -> None:
        if not self.block_s:
            return
        labelled = [g.name for g in self.guardrails if g.label_maturity_s is not None]
        wrong, remedy = "", "Leave the maturity at 0: a block closes when its time is over."
        if self.split():
            wrong = f"blocks of {self.block_s:g} s, and traffic that is split by unit"
            remedy = "Use blocks where both versions answer every request."
        elif labelled:
            wrong = f"blocks of {self.block_s:g} s, and labels for '{labelled[0]}' that name units"
            remedy = "Count users or sessions once, or leave the label's maturity out."
        elif self.block_s < SHORTEST_BLOCK_S:
            wrong = f"blocks of {self.block_s:g} s"
            remedy = "Use blocks well beyond what makes neighbours alike."
        elif self.maturity_s:
            wrong = f"blocks of {self.block_s:g} s, and a maturity of {self.maturity_s:g} s"
        elif self.cycle_s % self.block_s:
            wrong = f"a cycle of {self.cycle_s:g} s cuts a block of {self.block_s:g} s"
            remedy = "Use a block of which a whole number makes a cycle."
        if wrong:
            raise PolicyError("unit", wrong, remedy)

    def _check_ages(self) -> None:
        ages = {
            "maturity": self.maturity_s,
            "unit": self.block_s,
            "cycle": self.cycle_s,
            "quiet": self.quiet_s or 0.0,
            "burst gap": self.burst_gap_s,
            "longest burst": self.burst_longest_s,
        }
        for where, age_s in ages.items():
            if not 0.0 <= age_s <= _LONGEST_S:
                what = f"a length of {age_s:g} s"
                raise PolicyError(where, what, "Use 0 s or more, and at most a hundred years.")
        if self.quiet_s is not None and not self.quiet_s < self.cycle_s:
            what = f"{self.quiet_s:g} s without requests in a cycle of {self.cycle_s:g} s"
            raise PolicyError("quiet", what, "Give the longest silence of a usual cycle.")
        if self.burst_longest_s < self.burst_gap_s:
            what = f"gap {self.burst_gap_s:g} s and longest {self.burst_longest_s:g} s"
            raise PolicyError("burst", what, "Use gap ≤ longest.")

    def split(self) -> bool:
        """Whether traffic is split between the arms, so that arms and propensities matter."""
        return any(guardrail.kind is not LiveKind.PAIRED for guardrail in self.guardrails)

    def levels(self) -> dict[str, float]:
        """Rollback level of each clock that has a gating guardrail; equal shares."""
        clocks = {g.clock(): 1.0 for g in self.guardrails if g.gating}
        return clock_levels(clocks, self.alpha_rollback)

    def digest(self) -> str:
        """sha256 (hex); saved evidence goes on only under the same plan."""
        return sha256(self)


def _check(guardrail: LiveGuardrail) -> None:
    where = f"guardrail {guardrail.name}"
    lo, hi = guardrail.bounds
    if not -math.inf < lo < hi < math.inf:
        raise PolicyError(where, f"bounds [{lo:g}, {hi:g}]", "Give finite ones, lo below hi.")
    if not _fits(guardrail):
        what = f"margin {guardrail.margin:g} does not fit bounds [{lo:g}, {hi:g}]"
        raise PolicyError(where, what, "Give a mean inside the range; for errors a ratio from 1.")
    if guardrail.kind is LiveKind.ERRORS and (
        guardrail.direction is not Direction.INCREASE or guardrail.label_maturity_s is not None
    ):
        what = "an error ratio is harm upwards and comes with the requests"
        raise PolicyError(where, what, "Leave out `direction` and the label's maturity.")
    age_s = guardrail.label_maturity_s
    if age_s is not None and not 0.0 < age_s <= _LONGEST_S:
        what = f"a label maturity of {age_s:g} s"
        raise PolicyError(where, what, "Say how old a request must be for its label: 24h.")
    # A difference of means lies within ± the range, and the margin does too.
    if guardrail.gap is not None and not 0.0 < guardrail.gap <= 2.0 * (hi - lo):
        what = f"an expected distance of {guardrail.gap:g} from the margin"
        raise PolicyError(where, what, "Give one above 0 within the range, or none.")
    moment = guardrail.second_moment
    if moment is not None and not 0.0 < moment < math.inf:
        raise PolicyError(where, f"a second moment of {moment:g}", "Give one above 0, or none.")


def _fits(guardrail: LiveGuardrail) -> bool:
    """Whether the margin lies where the test can say something on either side of it."""
    lo, hi = guardrail.bounds
    match guardrail.kind:
        case LiveKind.PAIRED:
            tops = {Direction.INCREASE: hi, Direction.DECREASE: -lo, Direction.BOTH: min(hi, -lo)}
            return 0.0 < guardrail.margin < tops[guardrail.direction]
        case LiveKind.SHIFT:
            return 0.0 < guardrail.margin < hi - lo
        case LiveKind.ERRORS:
            return 1.0 <= guardrail.margin < math.inf and (lo, hi) == (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels that became known, as the guardrail's values (losses)."""

    unit: Array
    """Unit each belongs to, str, shape (k,)."""
    value: Floats
    """Within the guardrail's bounds, shape (k,)."""
    ts_ns: Ints
    """When each became known, and was delivered with its batch, shape (k,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBatch:
    """What happened up to an instant."""

    number: int
    """0, 1, 2 …; a number seen before is a repetition and changes nothing."""
    until_ns: int
    """All requests that arrived before this instant have been delivered, and all labels known."""
    requests: Requests
    """Since the batch before, in arrival order; may be none."""
    labels: Mapping[str, Labels] = field(default_factory=dict)
    """Guardrail name → its labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAnswer:
    """Where a live comparison stands."""

    decision: Decision
    """HOLD also means "not yet"; `reason` tells which."""
    reason: str
    """guardrail_failed, all_guardrails_pass, sample_ratio_mismatch, labels_unequal, undecided."""
    explanation: str
    """One plain sentence."""
    culprits: tuple[str, ...]
    """Guardrails proven beyond their margin (e-BH on their clock), strongest first."""
    so_far: bool
    """A cycle is declared and not a whole number of them has been seen: the averages are partial."""
    whole_cycles: int
    """Complete cycles that promotion has looked at; 0 without a declared cycle."""
    n_units: int
    """Units ever exposed."""
    n_closed: int
    """Units that entered the tests."""
    sample_ratio_p: float
    """Always-valid p-value of the declared split; 1 in shadow."""
    log_e_rollback: tuple[tuple[str, float], ...]
    """(clock, natural log of its averaged rollback e-value)."""
    promote_at: tuple[tuple[str, float], ...]
    """(guardrail, natural log of its promotion e-value at the last look that promotion may use)."""
    ignored: tuple[tuple[str, int], ...]
    """(reason, count) of requests, labels and batches that entered nothing."""
