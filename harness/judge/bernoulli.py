"""One-sided Beta mixtures for means in [0, 1]; their whole state is (n, S).

For 0/1 observations a constant bet is a likelihood ratio of one alternative p against the null m.
Mixing the alternatives with a Beta density cut off at the margin gives a closed form (Howard et al.
2021, Prop. 6 and 7; Robbins 1970). The prior is Beta(½, ½/m₀): most of its mass lies within a few
multiples of the margin m₀, where harm and harmlessness of rare events are decided. Simulated mean
requests without a plan, as multiples of the bound: flips .001 against .005 need 1.12 (generic
betting grid 1.56, Beta(½, ½) 1.13), harm .015 against .005 needs 1.33 (1.55, 2.07).

Validity does not need 0/1: for x in [0, 1], a^x·b^(1−x) ≤ x·a + (1−x)·b, so each likelihood ratio
is at most a bet's factor. For means of several rows it wastes their smaller variance, which is why
the judge mixes it with bets.

Against another null than the margin the prior stays as it is and alternatives on the wrong side of
that null count as 1 (no bet). That keeps E monotone in the null, so inversion gives an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Floats

_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaMixture:
    """Evidence against "the mean of sign·x is at most sign·m" for x in [0, 1]."""

    sign: int
    """+1: alternatives above the margin; −1: below it."""
    margin: float
    """The prior's cut, in (0, 1)."""
    a: float = _HALF
    """Beta prior's first parameter, > 0."""
    b: float | None = None
    """Second one, > 0; None = ½/margin."""
    _log_prior: float = field(init=False, repr=False, compare=False)
    """Log of the prior's mass beyond the margin."""

    def __post_init__(self) -> None:
        if not 0.0 < self.margin < 1.0:
            what = f"a margin of {self.margin:g} for shares"
            raise GateError("judge", what, "Report this: it must lie between 0 and 1.")
        mass = _log_side(self.a, self._b, self.margin, self.sign)
        object.__setattr__(self, "_log_prior", mass)

    def log_e(self, n: int, s: float, null: float | None = None) -> float:
        """Natural log of E after n observations whose sum is s.

        E is an e-process for every mean on the null's side: P(ever ≥ 1/α) ≤ α (Ville 1939).

        Args:
          n: observations, ≥ 0.
          s: their sum, in [0, n].
          null: largest mean under the null, in x (smallest for sign −1), in [0, 1]; None = the
            margin.

        Returns:
          May be −inf where a sum is impossible under every alternative.
        """
        m = self.margin if null is None else null
        idle, alive = self._prior_split(m)
        log_null = _log_power(m, s) + _log_power(1.0 - m, n - s)
        if log_null == -math.inf:
            # Data that the null excludes: it is rejected for good.
            return math.inf
        cut = max(m, self.margin) if self.sign > 0 else min(m, self.margin)
        first, second = self.a + s, self._b + n - s
        won = (
            _log_beta(first, second)
            - _log_beta(self.a, self._b)
            + _log_side(first, second, cut, self.sign)
            - self._log_prior
            - log_null
        )
        return float(np.logaddexp(idle, won)) if alive else 0.0

    def log_e_each(self, n: Floats, s: Floats) -> Floats:
        """Natural log of E against the margin at many states.

        Args:
          n: observations, shape (k,).
          s: their sums, each in [0, n], shape (k,).

        Returns:
          Shape (k,), as `log_e` gives one by one.
        """
        from scipy.special import betainc, betaincc, betaln

        side = betaincc if self.sign > 0 else betainc
        first, second = self.a + s, self._b + n - s
        with np.errstate(divide="ignore"):
            mass = np.log(side(first, second, self.margin))
        prior = _log_beta(self.a, self._b) + _log_side(self.a, self._b, self.margin, self.sign)
        null = s * math.log(self.margin) + (n - s) * math.log1p(-self.margin)
        return np.asarray(betaln(first, second) + mass - prior - null, np.float64)

    @property
    def _b(self) -> float:
        return _HALF / self.margin if self.b is None else self.b

    def _prior_split(self, m: float) -> tuple[float, bool]:
        """Log prior mass of alternatives that do not bet against m, and whether any does."""
        beyond = m > self.margin if self.sign > 0 else m < self.margin
        if not beyond:
            return -math.inf, True
        inside = _log_side(self.a, self._b, m, self.sign) - self._log_prior
        if inside == -math.inf:
            return 0.0, False
        return (math.log(-math.expm1(inside)) if inside < 0.0 else -math.inf), True


def _log_power(p: float, exponent: float) -> float:
    if exponent <= 0.0:
        return 0.0
    return exponent * math.log(p) if p > 0.0 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_side(a: float, b: float, cut: float, sign: int) -> float:
    """Log of a Beta's mass above (+1) or below (−1) a cut; −inf where it underflows."""
    from scipy.special import betainc, betaincc

    mass = float(betaincc(a, b, cut) if sign > 0 else betainc(a, b, cut))
    return math.log(mass) if mass > 0.0 else -math.inf
