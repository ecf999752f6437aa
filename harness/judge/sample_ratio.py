"""Did the split work as declared? A sequential test of units per arm, step by step.

Dirichlet–multinomial Bayes factor against the declared shares θ (Lindon & Malek 2022, section 2:
prior Dirichlet(concentration·θ)); a martingale under H0 at every unit, so it may be watched (Ville).
Each ramp step has its own θ and its own factor; a product of such factors is again a martingale.
A failure says nothing about the candidate. It says that the arms are not comparable: HOLD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from harness.core.errors import PolicyError, TrafficError
from harness.core.tensors import Bools, Floats, Ints

CONCENTRATION = 100.0
"""Weight of the declared shares in the prior, in units."""

ALPHA = 0.001
"""P(a working split is ever called broken) ≤ this."""

_ONE = 1e-9


class SampleRatio:
    """Counts units per arm and step; memory is one row a step."""

    def __init__(self, alpha: float = ALPHA, concentration: float = CONCENTRATION) -> None:
        """Starts without units.

        Args:
          alpha: P(fails at any look while every unit is assigned as declared) ≤ alpha, in (0, 1).
          concentration: > 0.

        Raises:
          PolicyError: a value outside its range.
        """
        if not (0.0 < alpha < 1.0 and concentration > 0.0):
            what = f"α = {alpha:g}, concentration = {concentration:g}"
            raise PolicyError("sample ratio", what, "Use 0 < α < 1 and a concentration above 0.")
        self._alpha = alpha
        self._concentration = concentration
        self._steps: dict[tuple[float, ...], Ints] = {}
        self._log_e = 0.0
        self._largest = 0.0

    def add(self, shares: Sequence[float], counts: Sequence[int] | Ints) -> None:
        """Adds units that one step assigned; one look follows.

        Args:
          shares: declared probability of each arm, summing to 1.
          counts: units per arm, ≥ 0, of the same length. How they are cut into calls matters to
            when one looks, not to what one sees.

        Raises:
          TrafficError: shares or counts that cannot be.
        """
        theta = tuple(float(share) for share in shares)
        units = np.asarray(counts, np.int64)
        if not abs(sum(theta) - 1.0) <= _ONE or min(theta) < 0.0:
            what = f"shares {theta} are no probabilities that sum to 1"
            raise TrafficError("sample ratio", what, "Give the declared share of each arm.")
        if len(units) != len(theta) or np.any(units < 0):
            what = f"{units.tolist()} units for {len(theta)} arms"
            raise TrafficError("sample ratio", what, "Give one count ≥ 0 for each arm.")
        self._steps[theta] = self._steps.get(theta, np.zeros(len(theta), np.int64)) + units
        self._log_e = sum(self.log_factor(key, n) for key, n in self._steps.items())
        self._largest = max(self._largest, self._log_e)

    def add_each(self, candidate: Bools, propensity: Floats) -> int | None:
        """Adds units of two arms in order, each of them a look: batches change nothing.

        Args:
          candidate: arm of each unit, shape (n,).
          propensity: declared probability of the candidate's arm, in [0, 1], shape (n,).

        Returns:
          Position of the first unit at which the split stands refuted; None when none does.
        """
        if not len(candidate):
            return None
        _, first_at = np.unique(propensity, return_index=True)
        for at in np.sort(first_at).tolist():
            pi = float(propensity[at])
            self._steps.setdefault((1.0 - pi, pi), np.zeros(2, np.int64))
        log_e = np.zeros(len(candidate))
        for theta, before in self._steps.items():
            mine = propensity == theta[1]
            if not mine.any():
                log_e += self.log_factor(theta, before)
                continue
            arms = np.cumsum([mine & ~candidate, mine & candidate], axis=1) + before[:, None]
            log_e += self._log_factors(theta, arms)
            self._steps[theta] = arms[:, -1]
        largest = np.maximum(np.maximum.accumulate(log_e), self._largest)
        self._log_e, self._largest = float(log_e[-1]), float(largest[-1])
        refuted = largest >= -math.log(self._alpha)
        return int(refuted.argmax()) if refuted.any() else None

    def log_factor(self, theta: tuple[float, ...], counts: Ints) -> float:
        """Natural log of one step's Bayes factor; those of all steps add up.

        Args:
          theta: declared probability of each arm.
          counts: units per arm of this step so far.
        """
        return float(self._log_factors(theta, np.asarray(counts)[:, None])[0])

    def _log_factors(self, theta: tuple[float, ...], counts: Ints) -> Floats:
        """`log_factor` of many counts at once, shape (arms, n) → (n,)."""
        total = -_log_rising(self._concentration, counts.sum(axis=0))
        for share, seen in zip(theta, counts, strict=True):
            if share > 0.0:
                total = total + _log_rising(self._concentration * share, seen)
                total = total - seen * math.log(share)
            else:
                total = np.where(seen > 0, math.inf, total)
        return np.asarray(total, np.float64)

    def log_e(self) -> float:
        """Natural log of the Bayes factor against the declared split now."""
        return self._log_e

    def p_value(self) -> float:
        """Always-valid p: 1/(largest Bayes factor at any look), in [0, 1]."""
        return math.exp(-self._largest)

    def failed(self) -> bool:
        """Whether the split was ever refuted at level alpha; stays true."""
        return self._largest >= -math.log(self._alpha)

    def counts(self) -> tuple[tuple[tuple[float, ...], tuple[int, ...]], ...]:
        """(shares, units per arm) of each step."""
        return tuple((theta, tuple(n.tolist())) for theta, n in self._steps.items())

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        steps = [[list(theta), n.tolist()] for theta, n in self._steps.items()]
        return {"steps": steps, "largest": min(self._largest, 1e300)}

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state`."""
        self._steps = {tuple(theta): np.asarray(n, np.int64) for theta, n in state["steps"]}
        self._log_e = sum(self.log_factor(key, n) for key, n in self._steps.items())
        self._largest = float(state["largest"])
        return self


def _log_rising(a: float, n: Ints) -> Floats:
    """Log a(a+1)…(a+n−1)."""
    from scipy.special import gammaln

    return np.asarray(gammaln(a + n) - gammaln(a), np.float64)
