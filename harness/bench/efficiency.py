"""Requests the judge needs to decide, beside tests that know more or promise less.

Three cases with known truth (one-sided α = .05, a look after every request, mean requests over seeded
runs) as multiples of the information bound log(1/α)/KL, below which no test of that level can go on
average. Comparison methods come from `judge.classic`; the fixed test's size is that of Wald's z-test
with its own variance under null and truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.bench.figures import Figure
from harness.core.tensors import Floats
from harness.judge.bernoulli import BetaMixture
from harness.judge.betting import OneSided, one_sided
from harness.judge.classic import (
    best_rho,
    empirical_bernstein_log,
    group_sequential_power,
    normal_mixture_log,
    obrien_fleming,
    repeated_z_error,
)
from harness.judge.process_claim import BETA_SHARE

ALPHA = 0.05
PLANNED_LIMIT, UNPLANNED_LIMIT = 1.2, 1.7
_BAR = math.log(1.0 / ALPHA)
_LONGEST = 8
"""Runs end undecided after this many bounds."""
_GROUPS = 5
_NAIVE_LOOKS = 100
_BETA_EVERY = 8

Draw = Callable[[int, np.random.Generator], Floats]
LogE = Callable[[Floats], tuple[Floats, Floats]]
"""Data → (observations seen at each look, log E there)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question whose answer is known."""

    name: str
    draw: Draw
    """(n, generator) → observations, shape (n,)."""
    sign: int
    """+1: rollback, the mean lies above the margin; −1: promotion, it lies below."""
    margin: float
    mean: float
    """The truth."""
    bounds: tuple[float, float]
    variance: tuple[float, float]
    """Of an observation (at the margin, in truth)."""
    kl: float
    """Nats an observation carries against the margin."""

    @property
    def bound(self) -> float:
        """Fewest requests that any test of this level needs on average."""
        return _BAR / self.kl

    @property
    def gap(self) -> float:
        """Distance of the truth from the margin, > 0."""
        return abs(self.mean - self.margin)

    @property
    def shares(self) -> bool:
        """Whether observations are 0 or 1."""
        return self.bounds == (0.0, 1.0)


def cases() -> tuple[Case, ...]:
    """Rare flips, a score's shift, and two unpaired arms."""
    p, m = 0.001, 0.005
    rate_gap, rate_variance = 0.01 / 4.0, 0.25 * 0.105 * 0.895
    return (
        Case(
            name="(a) flips .001, margin .005", sign=-1, margin=m, mean=p, bounds=(0.0, 1.0),
            draw=lambda n, rng: (rng.random(n) < p).astype(np.float64),
            variance=(m * (1 - m), p * (1 - p)),
            kl=p * math.log(p / m) + (1 - p) * math.log((1 - p) / (1 - m)),
        ),
        Case(
            name="(b) score: sd .05, mean .01, margin .005", sign=1, margin=m, mean=0.01,
            draw=lambda n, rng: np.clip(rng.normal(0.01, 0.05, n), -0.25, 0.25),
            bounds=(-0.25, 0.25), variance=(0.0025, 0.0025), kl=m * m / (2 * 0.0025),
        ),
        Case(
            name="(c) unpaired .10 v .11, both arms", sign=1, margin=0.0, mean=rate_gap,
            draw=_unpaired, bounds=(-0.5, 0.5), variance=(rate_variance, rate_variance),
            kl=rate_gap**2 / (2 * rate_variance),
        ),
    )  # fmt: skip


def _unpaired(n: int, rng: np.random.Generator) -> Floats:
    """(Y − μ̂)(A − ½) of a fair split: overlap-weighted difference of two rates."""
    arm = rng.integers(0, 2, n)
    y = rng.random(n) < np.where(arm == 1, 0.11, 0.10)
    return (y - 0.105) * (arm - 0.5)


def efficiency(runs: int, seed: int) -> list[Figure]:
    """Mean requests to decide, as multiples of the bound.

    Args:
      runs: simulated runs a case and method.
      seed: of the simulations.
    """
    return [figure for case in cases() for figure in _case(case, runs, seed)]


def _case(case: Case, runs: int, seed: int) -> list[Figure]:
    second = case.variance[0] if case.shares else case.variance[1] + case.gap**2
    planned = one_sided(case.sign, case.sign * case.margin, case.bounds, case.gap, second)
    free = one_sided(case.sign, case.sign * case.margin, case.bounds, None, None)
    methods: dict[str, tuple[LogE, float | None, str]] = {
        "SPRT that knows the truth": (_sprt(case), None, "Wald 1945; not available in practice"),
        "judge, planned": (_bets(planned), PLANNED_LIMIT, "¾ planned + ¼ generic"),
        "judge, unplanned": (_unplanned(case, free), UNPLANNED_LIMIT,
                             "Beta mixture + bets" if case.shares else "generic bets, K = 8"),
        "mSPRT, variance known": (_msprt(case), None, "two-sided normal mixture, tuned at the bound"),
        "empirical Bernstein": (_bernstein(case), None, "predictable plug-in, one-sided"),
    }  # fmt: skip
    figures = [Figure(name=f"{case.name}: bound", value=case.bound, unit="requests")]
    for name, (log_e, limit, note) in methods.items():
        mean, undecided = _mean_requests(case, log_e, runs, seed)
        late = f"; {undecided} of {runs} undecided at {_LONGEST}×" if undecided else ""
        figures.append(
            Figure(name=f"{case.name}: {name}", value=mean / case.bound, unit="× bound", limit=limit,
                   note=f"{mean:,.0f} requests; {note}{late}")
        )  # fmt: skip
    return figures + _fixed(case)


def _mean_requests(case: Case, log_e: LogE, runs: int, seed: int) -> tuple[float, int]:
    """(mean requests until E ≥ 1/α, runs that had not decided by the longest)."""
    rng = np.random.default_rng(seed)
    longest = math.ceil(_LONGEST * case.bound)
    needed = np.empty(runs)
    undecided = 0
    for run in range(runs):
        x = case.draw(longest, rng)
        # Most runs decide in the first third; the rest is looked at only where they do not.
        at = _first(log_e, x[: longest // 3]) or _first(log_e, x)
        needed[run] = at or longest
        undecided += not at
    return float(needed.mean()), undecided


def _first(log_e: LogE, x: Floats) -> float:
    """Observations at the first look with E ≥ 1/α; 0 when there is none."""
    seen, values = log_e(x)
    crossed = values >= _BAR
    return float(seen[crossed.argmax()]) if crossed.any() else 0.0


def _every(x: Floats) -> Floats:
    return np.arange(1.0, len(x) + 1.0)


def _bets(process: OneSided) -> LogE:
    return lambda x: (_every(x), process.each(x, np.zeros(len(process.lam))))


def _unplanned(case: Case, process: OneSided) -> LogE:
    """What a track without a plan does, the Beta mixture looked at every eighth request."""
    if not case.shares:
        return _bets(process)
    mixture = BetaMixture(sign=case.sign, margin=case.margin)

    def log_e(x: Floats) -> tuple[Floats, Floats]:
        seen, sums = _every(x)[_BETA_EVERY - 1 :: _BETA_EVERY], np.cumsum(x)
        bets = process.each(x, np.zeros(len(process.lam)))[_BETA_EVERY - 1 :: _BETA_EVERY]
        first = np.full(len(seen), -np.inf)
        for i, n in enumerate(seen):
            first[i] = mixture.log_e(int(n), float(sums[int(n) - 1]))
            if first[i] > _BAR + 1.0:
                break
        return seen, np.logaddexp(math.log(BETA_SHARE) + first, math.log1p(-BETA_SHARE) + bets)

    return log_e


def _sprt(case: Case) -> LogE:
    if case.shares:
        one = math.log(case.mean / case.margin)
        none = math.log((1 - case.mean) / (1 - case.margin))
        return lambda x: (_every(x), np.cumsum(np.where(x > 0.0, one, none)))
    slope = (case.mean - case.margin) / case.variance[1]
    middle = 0.5 * (case.mean + case.margin)
    return lambda x: (_every(x), np.cumsum(slope * (x - middle)))


def _msprt(case: Case) -> LogE:
    variance = case.variance[0]
    rho = best_rho(variance * case.bound, ALPHA)

    def log_e(x: Floats) -> tuple[Floats, Floats]:
        n = _every(x)
        s = case.sign * (np.cumsum(x) - n * case.margin)
        values = normal_mixture_log(s, n * variance, rho, one_sided=False)
        return n, np.where(s > 0.0, values, -np.inf)

    return log_e


def _bernstein(case: Case) -> LogE:
    lo, hi = case.bounds
    null = (case.margin - lo) / (hi - lo)
    return lambda x: (
        _every(x),
        empirical_bernstein_log((x - lo) / (hi - lo), null, case.sign, ALPHA),
    )


def _fixed(case: Case) -> list[Figure]:
    """Tests whose size is chosen beforehand, and the habit of looking at one as if it were not."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    at_margin, in_truth = (math.sqrt(v) for v in case.variance)
    figures = []
    sizes = {}
    for power in (0.8, 0.9):
        z = norm.ppf(1 - ALPHA) * at_margin + norm.ppf(power) * in_truth
        sizes[power] = (z / case.gap) ** 2
        figures.append(
            Figure(name=f"{case.name}: fixed z-test, {power:.0%} power", unit="× bound",
                   value=sizes[power] / case.bound, note=f"{sizes[power]:,.0f} requests, one look")
        )  # fmt: skip
    critical = obrien_fleming(_GROUPS, ALPHA)
    drift = float(brentq(lambda d: group_sequential_power(critical, d).sum() - 0.9, 1.0, 6.0))
    stops = group_sequential_power(critical, drift)
    inflation = (drift / (norm.ppf(1 - ALPHA) + norm.ppf(0.9))) ** 2
    share = float(stops @ (np.arange(1, _GROUPS + 1) / _GROUPS) + (1.0 - stops.sum()))
    figures.append(
        Figure(name=f"{case.name}: O'Brien–Fleming, 90% power", unit="× bound",
               value=sizes[0.9] * inflation * share / case.bound,
               note=f"{_GROUPS} looks fixed beforehand, at most {sizes[0.9] * inflation:,.0f} requests")
    )  # fmt: skip
    return figures


def naive() -> Figure:
    """The false alarms of a 5 % z-test that is looked at a hundred times."""
    return Figure(
        name=f"naive z-test, {_NAIVE_LOOKS} looks: false alarms",
        value=repeated_z_error(_NAIVE_LOOKS, 1.959964), unit="of runs",
        note="nominal .05; Armitage, McPherson & Rowe 1969: .374",
    )  # fmt: skip
