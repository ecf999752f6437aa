"""The judge's tests over many simulated runs at once: log E of both answers at every look.

The mathematics is the judge's own (its bets, mixtures and products take runs as rows); only what
`Track` and its kin keep for one run is kept here for all. That both agree is a test.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from harness.bench.conditions import ATTEMPT_LOOKS, Block, Condition, Rows, requests_of_a_unit
from harness.bench.observed import Observed, Observing, of_law
from harness.core.tensors import Floats
from harness.judge.bernoulli import BetaMixture
from harness.judge.betting import one_sided
from harness.judge.counts import ErrorRatio
from harness.judge.overlap import overlap_bets
from harness.judge.process_claim import BETA_SHARE
from harness.judge.products import log_products_of_rows
from harness.judge.sample_ratio import ALPHA as SPLIT_ALPHA
from harness.judge.sample_ratio import SampleRatio
from harness.judge.window_claim import COUNT_SHARE, CountMixture, frozen_bets

Logs = tuple[Floats, Floats]
"""(log E of rollback, log E of promotion), shape (runs,) both; crossed where ≥ log 1/α."""

Form = Callable[[Block], Logs]
"""Takes what lies between two looks in, looks."""

_EFFECT = 0.05
_LATE = 5
_SHARED = 0.5
_WITHIN = -0.8


class Mean:
    """A mean against its margin under a process claim: bets, and for shares a Beta mixture."""

    def __init__(self, observed: Observed, *, planned: bool = False) -> None:
        """Starts with no evidence.

        Args:
          observed: what is tested.
          planned: with bets for a mean half a margin away, at a guessed variance.
        """
        margin, bounds = observed.margin, observed.bounds
        gap = 0.5 * abs(margin) if planned else None
        second = margin * (1.0 - margin) if planned else None
        self._sides = [one_sided(s, s * margin, bounds, gap, second) for s in (1, -1)]
        shares = bounds == (0.0, 1.0) and not planned
        self._mixtures = [BetaMixture(sign=s, margin=margin) for s in (1, -1)] if shares else []
        self._wealth: list[Rows] = [np.zeros(1), np.zeros(1)]
        self._sum: Rows = np.zeros(1)
        self._n = 0

    def look(self, x: Rows) -> Logs:
        """Adds observations of every run, shape (runs, n), and looks."""
        pairs = zip(self._wealth, self._sides, strict=True)
        self._wealth = [wealth + side.growth(x) for wealth, side in pairs]
        self._n += x.shape[1]
        self._sum = self._sum + x.sum(axis=1, dtype=np.float64)
        bets = [s.log_e(w) for s, w in zip(self._sides, self._wealth, strict=True)]
        return self._mixed(0, bets[0]), self._mixed(1, bets[1])

    def _mixed(self, side: int, bets: Floats) -> Floats:
        if not self._mixtures:
            return bets
        mixture = self._mixtures[side]
        sums, where = np.unique(np.round(self._sum, 6), return_inverse=True)
        beta = np.array([mixture.log_e(self._n, s) for s in sums.tolist()])[where.reshape(-1)]
        return np.logaddexp(math.log(BETA_SHARE) + beta, math.log1p(-BETA_SHARE) + bets)

    def resume(self) -> None:
        """Saves the evidence and goes on from what was saved."""
        self._wealth = [np.array(json.loads(json.dumps(w.tolist()))) for w in self._wealth]


class Window:
    """A mean of exactly these requests, looked at in a drawn order."""

    def __init__(self, margin: float, bounds: tuple[float, float], population: int) -> None:
        """Starts with no evidence about N = population requests."""
        self._population = population
        self._sides = [one_sided(s, s * margin, bounds, None, None) for s in (1, -1)]
        self._wealth: list[Rows] = [np.zeros(1), np.zeros(1)]
        self._sum: Rows = np.zeros(1)
        self._n = 0
        shares = bounds == (0.0, 1.0)
        self._counts = [
            CountMixture(np.array([s.m]), s, population) for s in self._sides if shares
        ]  # fmt: skip

    def look(self, x: Rows) -> Logs:
        """Adds the next requests of every run's order, shape (runs, n), and looks."""
        left = self._population - self._n
        for i, side in enumerate(self._sides):
            m = (self._population * side.m - side.sign * self._sum) / left
            offset, slope = frozen_bets(side, side.lam, m[:, None])
            u = side.distance(np.asarray(x, np.float64))
            self._wealth[i] = self._wealth[i] + log_products_of_rows(u, offset, slope)
        self._n += x.shape[1]
        self._sum = self._sum + x.sum(axis=1, dtype=np.float64)
        return self._log_e(0), self._log_e(1)

    def _log_e(self, i: int) -> Floats:
        bets = self._sides[i].log_e(self._wealth[i])
        if not self._counts:
            return bets
        sums, where = np.unique(np.round(self._sum), return_inverse=True)
        won = np.array([float(self._counts[i].log_e(self._n, s, 1)[0]) for s in sums.tolist()])
        counts = math.log(COUNT_SHARE) + won[where.reshape(-1)]
        return np.logaddexp(counts, math.log1p(-COUNT_SHARE) + bets)


def single(observing: Observing, condition: Condition, rng: np.random.Generator,
           *, planned: bool = False) -> Form:  # fmt: skip
    """One guardrail under a process claim."""
    observed = observing(condition, rng)
    test = Mean(observed, planned=planned)
    looks = itertools.count(1)

    def look(block: Block) -> Logs:
        if condition.restarts and next(looks) % ATTEMPT_LOOKS == 0:
            test.resume()
        return test.look(observed.draw(block))

    return look


def both_sides(condition: Condition, rng: np.random.Generator) -> Form:
    """Harm on either side of ±margin; the mean is at the upper one."""
    del rng
    law = condition.law
    upper = Mean(of_law(law))
    lower = Mean(Observed(margin=-law.margin, bounds=law.bounds, draw=lambda block: block.u))

    def look(block: Block) -> Logs:
        x = law.values(block.u, block.swing)
        (above, not_above), (not_below, below) = upper.look(x), lower.look(x)
        # Towards −margin the roles change: what lies below it is harm.
        return np.logaddexp(above, below) - math.log(2.0), np.minimum(not_above, not_below)

    return look


def combined(k: int, condition: Condition, rng: np.random.Generator) -> Form:
    """K guardrails that share half their luck: their average, and all of them together.

    For rollback each is at its margin; for promotion one is, the others are well within theirs.
    """
    law = condition.law
    harms = [Mean(of_law(law)) for _ in range(k)]
    passes = [Mean(of_law(law)) for _ in range(k - 1)]

    def look(block: Block) -> Logs:
        ranks = [block.u, *(_related(block.u, rng) for _ in range(k - 1))]
        logs = [test.look(law.values(u, block.swing)) for test, u in zip(harms, ranks, strict=True)]
        within = [
            test.look(law.values(u, _WITHIN))[1]
            for test, u in zip(passes, ranks[1:], strict=True)
        ]  # fmt: skip
        return _average([log[0] for log in logs]), np.minimum.reduce([logs[0][1], *within])

    return look


def _related(u: Rows, rng: np.random.Generator) -> Rows:
    own = rng.random(u.shape, np.float32)
    return np.where(rng.random(u.shape, np.float32) < _SHARED, u, own)


def _average(logs: Sequence[Floats]) -> Floats:
    return np.asarray(np.logaddexp.reduce(np.stack(logs), axis=0) - math.log(len(logs)))


def clocks(condition: Condition, rng: np.random.Generator) -> Form:
    """Two label clocks with half of α each, the slower one five looks behind."""
    law = condition.law
    tests = [Mean(of_law(law)), Mean(of_law(law))]
    waiting: list[Rows] = []

    def look(block: Block) -> Logs:
        waiting.append(law.values(_related(block.u, rng), block.swing))
        fast = tests[0].look(law.values(block.u, block.swing))
        nothing = np.zeros(len(block.u))
        slow = tests[1].look(waiting.pop(0)) if len(waiting) > _LATE else (nothing, nothing)
        return np.maximum(fast[0], slow[0]) - math.log(2.0), np.minimum(fast[1], slow[1])

    return look


def calibration(condition: Condition, rng: np.random.Generator) -> Form:
    """Residuals in five bins of the baseline's score: averaged for harm, all needed for a pass."""
    bins = 5
    law = condition.law
    tests = [Mean(of_law(law)) for _ in range(bins)]

    def look(block: Block) -> Logs:
        x = law.values(block.u, block.swing)
        # The score is free of the residual; equal shares, so a rank's fifth is its bin.
        at = rng.permuted(np.arange(x.shape[1]) % bins)
        logs = [test.look(x[:, at == i]) for i, test in enumerate(tests)]
        return _average([log[0] for log in logs]), np.minimum.reduce([log[1] for log in logs])

    return look


class Overlap:
    """A difference of unpaired arms, weighted by π(1 − π)."""

    def __init__(self, margin: float, bounds: tuple[float, float]) -> None:
        """Starts with no evidence about outcomes in `bounds`."""
        lo, hi = bounds
        self._margin, self._middle = margin, 0.5 * (lo + hi)
        self._bets = overlap_bets(margin, hi - lo, (None, None))
        self._wealth: list[Rows] = [np.zeros(1), np.zeros(1)]
        self._sum: Rows = np.zeros((1, 1))
        self._n = 0

    def look(self, y: Floats, candidate: Rows, pi: float) -> Logs:
        """Adds units of every run, shape (runs, n), that were assigned with P(candidate) = π."""
        start = np.broadcast_to(self._sum, (len(y), 1))
        sums = np.concatenate([start, start + np.cumsum(y, axis=1)], axis=1)
        predicted = (self._middle + sums[:, :-1]) / (1.0 + self._n + np.arange(y.shape[1]))
        z = (y - predicted) * (candidate - pi) - pi * (1.0 - pi) * self._margin
        self._wealth = [
            w + self._bets.growth(s * z) for s, w in zip((1, -1), self._wealth, strict=True)
        ]
        self._sum, self._n = sums[:, -1:], self._n + y.shape[1]
        return self._bets.log_e(self._wealth[0]), self._bets.log_e(self._wealth[1])


def overlap(condition: Condition, rng: np.random.Generator) -> Form:
    """Units that enter once; the candidate's effect is the margin, whatever the outcomes do."""
    law, margin = condition.law, _EFFECT
    lo, hi = law.bounds
    test = Overlap(margin, law.bounds)

    def look(block: Block) -> Logs:
        y = law.values(block.u, block.swing).astype(np.float64)
        y = np.clip(y * (1.0 + block.trend), lo, hi)
        candidate = rng.random(y.shape, np.float32) < block.pi
        return test.look(_shifted(y, candidate, margin, hi, rng), candidate, block.pi)

    return look


def _shifted(
    y: Floats, candidate: Rows, margin: float, hi: float, rng: np.random.Generator
) -> Floats:
    """Turns some of the candidate's outcomes into `hi`: its effect on every unit is the margin."""
    y = np.minimum(y, hi - margin)
    turned = rng.random(y.shape, np.float32) * (hi - y) < margin
    return np.where(candidate & turned, hi, y)


def errors(condition: Condition, rng: np.random.Generator) -> Form:
    """Errors that come 1.5 times as often to the candidate; in bursts only the first counts."""
    times = 1.5
    test = ErrorRatio(ratio=times, alphas=(0.05, 0.05))
    share = condition.law.margin if condition.law.bounds == (0.0, 1.0) else 0.02
    counts: dict[float, Rows] = {}

    def look(block: Block) -> Logs:
        candidate = rng.random(block.u.shape, np.float32) < block.pi
        chance = share * (1.0 + block.swing) * (1.0 + block.trend)
        # Outages drag others along, which a pause hides; what starts them comes on its own.
        u = block.u if condition.hangs != "bursts" else rng.random(block.u.shape, np.float32)
        erring = u < np.where(candidate, times * chance, chance)
        if condition.hangs == "bursts":
            erring = erring & ~_in_a_burst(erring)
        both = np.stack([(erring & ~candidate).sum(axis=1), (erring & candidate).sum(axis=1)])
        counts[block.pi] = counts.get(block.pi, 0) + both
        return test.log_e_of(counts)

    return look


def _in_a_burst(erring: Rows) -> Rows:
    """Whether any of the twenty units before has erred, whatever its arm."""
    gap = requests_of_a_unit()
    before = np.cumsum(erring, axis=1) - erring
    older = np.zeros_like(before)
    older[:, gap:] = before[:, :-gap]
    return np.asarray(before > older)


def split(condition: Condition, rng: np.random.Generator) -> Form:
    """Units that fall to the arms as declared; its alarm is at its own level."""
    del condition
    test = SampleRatio(SPLIT_ALPHA)
    counts: dict[float, Rows] = {}
    logs: dict[float, Floats] = {}

    def look(block: Block) -> Logs:
        pi, n = block.pi, block.u.shape[1]
        mine = rng.binomial(n, pi, len(block.u))
        counts[pi] = counts.get(pi, 0) + np.stack([n - mine, mine], axis=1)
        found, where = np.unique(counts[pi], axis=0, return_inverse=True)
        of_found = np.array([test.log_factor((1.0 - pi, pi), row) for row in found])
        logs[pi] = of_found[where.reshape(-1)]
        total = np.sum(list(logs.values()), axis=0)
        return total, np.full(len(mine), -np.inf)

    return look


planned = partial(single, planned=True)
