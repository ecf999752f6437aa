"""Live errors as a race: of the next error, in which arm does it happen?

If errors come to the arms with rates that differ by a factor r' and share everything else (load,
hour, outages upstream), the next error is the candidate's with probability

    θ(r') = ρ_B r′ / (ρ_A + ρ_B r′),

ρ being the arms' shares of units (Lindon & Malek 2022, section 4, arXiv 2011.03567): time drops
out. The e-value is a mixture of likelihood ratios θ(r′) against θ(r) over r′ on one side of the
tolerated ratio r. Each ratio is a supermartingale under the whole null "ratio ≤ r" (or ≥ r).

The mixture is a Beta(2, 2) on u = ψ/(1 + ψ), cut to one side of ½, with ψ = r′/r, on equally likely
nodes: at equal odds it is the one-sided Beta mixture of Howard et al. (2021), and it stays one
mixture when a ramp changes ρ, where a Beta on θ itself would have to start anew at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from harness.core.errors import PolicyError, TrafficError
from harness.core.tensors import Bools, Floats, Ints
from harness.core.verdicts import PathPoint
from harness.judge.looks import Looks, point_of

_NODES = 256
_FARTHEST = 1e6
_OPEN = 1.001
_ROUNDS = 60


class ErrorRatio:
    """Evidence about the candidate's error rate divided by the baseline's.

    Guarantee: with a ratio ≤ r, the rollback e-value reaches 1/α at any look with probability ≤ α;
    with a ratio ≥ r, the promotion e-value likewise.
    """

    def __init__(self, *, ratio: float, alphas: tuple[float, float]) -> None:
        """Places the nodes.

        Args:
          ratio: largest tolerated ratio r, > 0; usually above 1.
          alphas: (promotion, rollback) levels of the interval's ends.

        Raises:
          PolicyError: a value outside its range.
        """
        if not (math.isfinite(ratio) and ratio > 0.0):
            what = f"ratio {ratio:g} is not above 0"
            raise PolicyError("margin", what, "Say how many times the errors are tolerated: 1.5.")
        if not all(0.0 < alpha < 1.0 for alpha in alphas):
            raise PolicyError("alpha", f"{alphas} is not in (0, 1)", "Use levels like 0.05.")
        self._ratio = ratio
        self._alphas = alphas
        self._odds = _odds()
        self._errors: dict[float, Ints] = {}
        self._looks = Looks()
        self.n = 0
        """Errors (bursts) counted."""
        self.n_failed = 0
        """Always 0: a failure is what is counted."""

    def add(self, candidate: Bools, propensity: Floats) -> Floats:
        """Adds errors, each once a burst and each a look of rollback's; promotion's follows.

        Args:
          candidate: arm of each error, shape (k,).
          propensity: candidate's share of units in the step each error belongs to, in [0, 1].

        Returns:
          `log_e_rollback` after each error, shape (k,).

        Raises:
          TrafficError: lengths differ or a share outside its range.
        """
        if len(candidate) != len(propensity):
            what = f"{len(candidate)} errors and {len(propensity)} shares"
            raise TrafficError("errors", what, "Give one share for every error.")
        if not np.all((propensity >= 0.0) & (propensity <= 1.0)):
            what = "a share is missing or outside [0, 1]"
            raise TrafficError("propensity", what, "Record the split that was in force.")
        if np.any(np.where(candidate, propensity, 1.0 - propensity) == 0.0):
            what = "an error is in an arm that had probability 0"
            raise TrafficError("propensity", what, "Record the split in force at first exposure.")
        # Errors of each step and arm up to each of them, the earlier ones among them.
        so_far = {
            pi: np.repeat(n[:, None], len(candidate), axis=1) for pi, n in self._errors.items()
        }
        for pi in np.unique(propensity):
            at = propensity == pi
            arms = np.cumsum([at & ~candidate, at & candidate], axis=1)
            so_far[float(pi)] = so_far.get(float(pi), np.zeros((2, 1), np.int64)) + arms
            mine = int(np.count_nonzero(candidate[at]))
            counts = self._errors.setdefault(float(pi), np.zeros(2, np.int64))
            counts += (int(np.count_nonzero(at)) - mine, mine)
        self.n += len(candidate)
        if len(candidate) and self._looks.due(self.n):
            self._looks.keep(self.point())
        return np.broadcast_to(_log_e(so_far, self._ratio, self._odds), len(candidate))

    def log_e_rollback(self) -> float:
        """Natural log of E against "ratio ≤ r"."""
        return self._log_e(self._ratio, self._odds)

    def log_e_promote(self) -> float:
        """Natural log of E against "ratio ≥ r"."""
        return self._log_e(self._ratio, 1.0 / self._odds)

    def log_e_of(self, errors: Mapping[float, Ints]) -> tuple[Floats, Floats]:
        """Both e-values of many races at once.

        Args:
          errors: candidate's share → errors of (baseline, candidate), shape (2, races).

        Returns:
          Natural logs of E against "ratio ≤ r" and against "ratio ≥ r", shape (races,) both.
        """
        above = _log_e(errors, self._ratio, self._odds)
        return above, _log_e(errors, self._ratio, 1.0 / self._odds)

    def _log_e(self, null: float, odds: Floats) -> float:
        return float(_log_e(self._errors, null, odds))

    def interval(self) -> tuple[float, float]:
        """Confidence sequence of the ratio; 0 and infinity where nothing is excluded."""
        alpha_promote, alpha_rollback = self._alphas
        lower = self._limit(self._odds, math.log(1.0 / alpha_rollback))
        upper = self._limit(1.0 / self._odds, math.log(1.0 / alpha_promote))
        low = 0.0 if lower * _FARTHEST < _OPEN else lower
        return low, (math.inf if upper * _OPEN > _FARTHEST else upper)

    def _limit(self, odds: Floats, bar: float) -> float:
        """Where log E crosses the bar; log E falls in the null for odds > 1 and rises for < 1."""
        rising = bool(odds[0] < 1.0)
        left, right = -math.log(_FARTHEST), math.log(_FARTHEST)
        for _ in range(_ROUNDS):
            middle = 0.5 * (left + right)
            if (self._log_e(math.exp(middle), odds) >= bar) == rising:
                right = middle
            else:
                left = middle
        return math.exp(right if rising else left)

    def point(self) -> PathPoint:
        """The evidence now."""
        return point_of(self)

    def path(self) -> tuple[PathPoint, ...]:
        """Looks kept for a report, the last one among them."""
        return self._looks.until(self.point())

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        errors = [[pi, counts.tolist()] for pi, counts in self._errors.items()]
        return {"n": self.n, "errors": errors, "looks": self._looks.state()}

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of a test with the same arguments."""
        self.n = int(state["n"])
        self._errors = {float(pi): np.asarray(n, np.int64) for pi, n in state["errors"]}
        self._looks.restore(state["looks"])
        return self


def _log_e(errors: Mapping[float, Ints], null: float, odds: Floats) -> Floats:
    """Log E from errors per step, shape (2, …) → (…)."""
    total = np.zeros(1)
    for pi, (base, cand) in errors.items():
        if not 0.0 < pi < 1.0:
            continue
        # log θ(r′)/θ(r) and log (1 − θ(r′))/(1 − θ(r)), with w = ρ_A + ρ_B r.
        weight = np.log((1.0 - pi + pi * null * odds) / (1.0 - pi + pi * null))
        both = np.asarray(base + cand)[..., None]
        total = total + np.asarray(cand)[..., None] * np.log(odds) - both * weight
    mixed = np.broadcast_to(total, (*total.shape[:-1], len(odds)))
    return np.asarray(np.logaddexp.reduce(mixed, axis=-1) - math.log(len(odds)), np.float64)


def _odds() -> Floats:
    """Equally likely ψ > 1 under the Beta mixture cut to u > ½, shape (_NODES,)."""
    # Quantiles of Beta(2, 2) in closed form: the middle root of 3u² − 2u³ = q.
    q = 0.5 + 0.5 * (np.arange(_NODES) + 0.5) / _NODES
    u = 0.5 - np.sin(np.arcsin(1.0 - 2.0 * q) / 3.0)
    return np.asarray(u / (1.0 - u), np.float64)


class Bursts:
    """Tells which errors start a burst, so that one outage is one error.

    A burst goes on while errors of *either* arm follow each other within `gap_s`, and at most
    `longest_s`. Whether the next error will count is thus known before it happens, and its arm still
    falls as θ says. A pause of each arm's own would hide more of the busier arm's errors: at 10 % of
    traffic that alone looks like a worse candidate.
    """

    __slots__ = ("_gap_ns", "_last", "_longest_ns", "_start")

    def __init__(self, gap_s: float, longest_s: float) -> None:
        """Starts outside a burst.

        Args:
          gap_s: errors closer than this belong together, ≥ 0; 0 counts every error.
          longest_s: a burst that lasts longer counts again, ≥ gap_s; outages should be shorter.

        Raises:
          PolicyError: a value outside its range.
        """
        if not 0.0 <= gap_s <= longest_s:
            what = f"gap {gap_s:g} s and longest {longest_s:g} s"
            raise PolicyError("burst", what, "Use 0 ≤ gap ≤ longest.")
        self._gap_ns = round(gap_s * 1e9)
        self._longest_ns = round(longest_s * 1e9)
        self._start: int | None = None
        self._last: int | None = None

    def starts(self, ts_ns: Ints) -> Bools:
        """Marks the errors that count.

        Args:
          ts_ns: when errors happened, not decreasing, both arms together, shape (k,).

        Raises:
          TrafficError: a time before an earlier one.
        """
        marks = np.zeros(len(ts_ns), np.bool_)
        for i, at in enumerate(ts_ns.tolist()):
            if self._last is not None and at < self._last:
                what = "an error is earlier than the one before it"
                raise TrafficError(
                    "errors", what, "Give errors in the order in which they happened."
                )
            fresh = self._last is None or at - self._last >= self._gap_ns
            if fresh or self._start is None or at - self._start >= self._longest_ns:
                marks[i] = True
                self._start = at
            self._last = at
        return marks

    def state(self) -> list[int | None]:
        """Plain JSON values from which `restore` continues identically."""
        return [self._start, self._last]

    def restore(self, state: list[int | None]) -> Self:
        """Continues from `state`."""
        self._start, self._last = state
        return self
