"""How many requests a verdict will need, and the smallest harm that traffic can show.

The lower bound for any sequential test of level α is log(1/α)/KL_inf (Wald 1945; for bounded means
KL_inf(P, m) = max_λ E log(1 + λ(y − m)), Honda & Takemura 2010, Theorem 8). The judge's own bets
need more, by how much depends on the mixture; that is simulated, with the bets themselves, over a
discrete model of one request: counts of its values at growing looks are multinomial and log-wealth
is linear in counts, so a thousand runs to a million requests take less than a second. A normal
approximation of log-wealth was tried and left: for rare events it is off by a quarter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np

from harness.core.errors import PolicyError
from harness.core.tensors import Floats, Ints
from harness.judge.bernoulli import BetaMixture
from harness.judge.betting import CAP, OneSided
from harness.judge.plan import PlannedTest
from harness.judge.planned_bets import SIGNS, processes_of
from harness.judge.process_claim import BETA_SHARE

POWER = 0.9
"""Probability with which a promotion, or a harm, is to be proven."""
RUNS = 800
"""Simulated runs a figure; a 90 % quantile is then that of 87 to 93 %."""

_NODES = 16
_AT_ONCE = 40
_LOOKS = 600
_FIRST_LOOK = 10
_HARM_LOOKS = 60
_HALVINGS = 12
_REACHED = 0.995
HORIZON_OF_BOUND = 30.0
"""Runs are simulated to this many times the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestModel:
    """A discrete distribution of one request's value."""

    nodes: Floats
    """Values, ascending, in the bounds, shape (V,)."""
    p: Floats
    """Their probabilities, summing to 1, shape (V,)."""
    bounds: tuple[float, float]
    """(lo, hi) of the metric."""
    basis: str
    """What it rests on, in words."""

    @classmethod
    def widest(cls, mean: float, bounds: tuple[float, float], basis: str) -> Self:
        """The largest variance that a mean and bounds allow: only lo and hi (Bhatia & Davis 2000).

        For 0/1 metrics this is no assumption. For others it asks for more requests than any truth.
        """
        lo, hi = bounds
        above = (mean - lo) / (hi - lo)
        return cls(
            nodes=np.array([lo, hi]), p=np.array([1.0 - above, above]), bounds=bounds, basis=basis
        )

    @classmethod
    def of_sample(cls, x: Floats, bounds: tuple[float, float], basis: str) -> Self:
        """The distribution of a planning set, in at most 16 values with its mean and variance.

        Args:
          x: values in the bounds, shape (n,), n ≥ 1, no NaN.
          bounds: (lo, hi).
          basis: what the sample is.
        """
        values, counts = np.unique(x, return_counts=True)
        if len(values) > _NODES:
            parts = [part for part in np.array_split(np.sort(x), _NODES) if len(part)]
            values = np.array([float(part.mean()) for part in parts])
            counts = np.array([len(part) for part in parts])
            centre = float(x.mean())
            lost = float(x.std()) / math.sqrt(float(counts @ np.square(values - centre)) / len(x))
            values = np.clip(centre + (values - centre) * lost, *bounds)
        return cls(nodes=values, p=counts / counts.sum(), bounds=bounds, basis=basis)

    def mean(self) -> float:
        """Expected value."""
        return float(self.p @ self.nodes)

    def with_mean(self, mean: float) -> Self:
        """The same shape around another mean in the bounds.

        Values that already lie on 0 or a bound (events) become more or less frequent; others are
        shifted, cut at the bounds, and what is then missing is put on the bound.
        """
        lo, hi = self.bounds
        nodes = self.nodes
        if not np.isin(nodes, (lo, 0.0, hi)).all():
            nodes = np.clip(nodes + (mean - self.mean()), lo, hi)
        found = float(self.p @ nodes)
        end = hi if mean > found else lo
        share = 0.0 if math.isclose(mean, found, abs_tol=1e-15) else (mean - found) / (end - found)
        nodes, p = np.append(nodes, end), np.append(self.p * (1.0 - share), share)
        order = np.argsort(nodes)
        return type(self)(nodes=nodes[order], p=p[order], bounds=self.bounds, basis=self.basis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What one test needs, in requests that it sees."""

    name: str
    """Evidence name."""
    mean: float
    """Mean that is planned for: the declared effect, or 0."""
    declared: bool
    """Whether the policy declares that effect; the bets are planned only then."""
    basis: str
    """What the spread of the values rests on."""
    bound: float
    """Expected requests that no sequential test of this level can go below; inf = never."""
    expected: float
    """Mean requests until the guardrail is proven; inf = not within the horizon."""
    quantile: float
    """Requests that suffice with probability POWER; inf = not within the horizon."""
    n: Ints
    """Looks, shape (J,)."""
    power: Floats
    """Probability of being proven by each look, shape (J,)."""

    def power_at(self, n: Floats | float) -> Floats:
        """Probability of being proven by the last look within n requests of the test.

        Args:
          n: requests, any shape.

        Returns:
          The shape of `n`.
        """
        at = np.searchsorted(self.n, n, side="right")
        return np.concatenate([[0.0], self.power])[at]


def require(
    test: PlannedTest,
    model: RequestModel,
    alpha: float,
    horizon: int,
    rng: np.random.Generator,
) -> Requirement:
    """What a test needs to prove its guardrail, if requests are as the model says.

    Args:
      test: with its planned bets.
      model: of one request, its mean within the margin.
      alpha: promotion level, in (0, 1).
      horizon: most requests looked at, ≥ 1.
      rng: draws the runs.

    Raises:
      PolicyError: the level is none, or the mean is not within the margin.
    """
    if not 0.0 < alpha < 1.0:
        raise PolicyError("alpha.promote", f"{alpha:g} is no error rate", "Use 0.05.")
    bound = _bound(test, model, alpha)
    longest = horizon if bound == math.inf else max(1000, math.ceil(HORIZON_OF_BOUND * bound))
    ends = look_sizes(min(horizon, longest), _LOOKS)
    _, promotes = processes_of(test)
    at = _crossings(test, promotes, model, ends, math.log(1.0 / alpha), rng, together="min")
    power = np.array([float((at <= end).mean()) for end in ends])
    reached = bool((at < np.inf).mean() >= _REACHED)
    enough = np.flatnonzero(power >= POWER)
    return Requirement(
        name=test.name,
        mean=round(model.mean(), 12) + 0.0,
        declared=test.gap is not None,
        basis=model.basis,
        bound=bound,
        expected=float(at[at < np.inf].mean()) if reached else math.inf,
        quantile=float(ends[enough[0]]) if len(enough) else math.inf,
        n=ends,
        power=power,
    )


def smallest_harm(
    test: PlannedTest, model: RequestModel, alpha: float, n: int, rng: np.random.Generator
) -> float | None:
    """The smallest mean beyond the margin that n requests show with probability POWER.

    The test alone must carry the rollback: its weighted e-value reaches 1/α.

    Args:
      test: with its weight in the rollback average.
      model: of one request; its shape is kept.
      alpha: rollback level, in (0, 1).
      n: requests that the test sees, ≥ 1.
      rng: draws the runs.

    Returns:
      A distance from 0 in the harmful direction, or None where even the largest harm is not seen;
      for `both` the upper side.
    """
    if not 0.0 < alpha < 1.0:
        raise PolicyError("alpha.rollback", f"{alpha:g} is no error rate", "Use 0.05.")
    if not test.weight or n < 1:
        return None
    sign = SIGNS[test.guardrail.direction][0]
    most = model.bounds[1] if sign > 0 else -model.bounds[0]
    rollbacks, _ = processes_of(test)
    bar = math.log(1.0 / (alpha * test.weight))
    ends = look_sizes(n, _HARM_LOOKS)
    seed = int(rng.integers(2**63))

    def seen(harm: float) -> bool:
        # The same draws for every harm: the share that crosses then grows with it.
        draws = np.random.default_rng(seed)
        shifted = model.with_mean(sign * harm)
        at = _crossings(test, rollbacks, shifted, ends, bar, draws, together="mean")
        return bool((at < np.inf).mean() >= POWER)

    low, high = test.margin, most * (1.0 - 1e-9)
    if not seen(high):
        return None
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def _bound(test: PlannedTest, model: RequestModel, alpha: float) -> float:
    """log(1/α)/KL_inf of the harder side."""
    _, promotes = processes_of(test)
    return max(math.log(1.0 / alpha) / g if g > 0 else math.inf for g in _growths(promotes, model))


def _growths(processes: list[OneSided], model: RequestModel) -> list[float]:
    """max_λ E log(1 + λ(y − m)) of each side, by golden section over a concave function."""
    found = []
    for process in processes:
        y = process.sign * model.nodes - process.m
        used, p = y[model.p > 0], model.p[model.p > 0]
        largest = (1.0 if used.min() > process.low - process.m else CAP) / (process.m - process.low)
        lam = np.linspace(0.0, largest, 2001)[:, None]
        values = np.log1p(lam * used) @ p
        best = int(values.argmax())
        fine = np.linspace(lam[max(best - 1, 0), 0], lam[min(best + 1, 2000), 0], 201)[:, None]
        found.append(float((np.log1p(fine * used) @ p).max()))
    return found


def look_sizes(most: int, count: int) -> Ints:
    """Growing look sizes, the last one `most`; at most `count` of them."""
    first = min(_FIRST_LOOK, most)
    return np.unique(np.round(np.geomspace(first, most, count)).astype(np.int64))


def _crossings(
    test: PlannedTest,
    processes: list[OneSided],
    model: RequestModel,
    ends: Ints,
    bar: float,
    rng: np.random.Generator,
    *,
    together: str,
) -> Floats:
    """First look of each run at which the sides together reach the bar; inf = none, shape (RUNS,).

    Together is the "min" of the sides, as promotion needs every one, or their "mean", as rollback.
    """
    mixture = _mixtures(test, processes, model)
    used = model.p > 0
    nodes, p = model.nodes[used], model.p[used] / model.p[used].sum()
    steps = np.diff(ends, prepend=0)
    factors = [process.log_factors(nodes) for process in processes]
    found: list[Floats] = []
    for start in range(0, RUNS, _AT_ONCE):
        runs = min(_AT_ONCE, RUNS - start)
        drawn = rng.multinomial(np.broadcast_to(steps, (runs, len(steps))), p)
        counts = np.cumsum(drawn, axis=1).astype(np.float64)
        sides = np.stack(
            [q.log_e(counts @ f) for q, f in zip(processes, factors, strict=True)], axis=-1
        )
        if mixture:
            sides[..., 0] = _with_mixture(mixture[0], sides[..., 0], ends, counts @ nodes)
        if together == "min":
            logs = sides.min(axis=-1)
        else:
            logs = np.logaddexp.reduce(sides, axis=-1) - math.log(len(processes))
        crossed = logs >= bar
        first = crossed.argmax(axis=1)
        found.append(np.where(crossed.any(axis=1), ends[first].astype(np.float64), np.inf))
    return np.concatenate(found)


def _mixtures(
    test: PlannedTest, processes: list[OneSided], model: RequestModel
) -> list[BetaMixture]:
    """The Beta mixture that the judge adds for shares without a plan; () where it adds none.

    For means of several values in [0, 1] it is left out, which plans for a few more requests.
    """
    binary = np.isin(model.nodes[model.p > 0], (0.0, 1.0)).all()
    planned = test.gap is not None and test.second_moment is not None
    if test.guardrail.bounds() != (0.0, 1.0) or planned or not binary:
        return []
    return [BetaMixture(sign=process.sign, margin=test.margin) for process in processes]


@lru_cache(maxsize=200_000)
def _mixture_log_e(mixture: BetaMixture, n: int, s: float) -> float:
    """Remembered, as the runs of a plan, and the harms it tries, share most states."""
    return mixture.log_e(n, s)


def _with_mixture(mixture: BetaMixture, bets: Floats, ends: Ints, sums: Floats) -> Floats:
    """Log E of bets and mixture together; the mixture's state is (n, S), of which few differ."""
    out = np.empty_like(bets)
    for j, n in enumerate(ends):
        found, at = np.unique(np.round(sums[:, j]), return_inverse=True)
        logs = np.array([_mixture_log_e(mixture, int(n), float(s)) for s in found])
        out[:, j] = logs[at]
    return np.asarray(np.logaddexp(math.log(BETA_SHARE) + out, math.log1p(-BETA_SHARE) + bets))
