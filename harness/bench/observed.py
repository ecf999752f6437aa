"""Observations of each metric with a mean of exactly its margin, made from latent ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.bench.conditions import SHARE, Block, Condition, Law, Rows, requests_of_a_unit
from harness.core.policies import METRIC_BOUNDS, Metric
from harness.core.tensors import Floats
from harness.judge.exceedance import exceedance_cut, exceedances
from harness.judge.excess import excess_flips, ratio_values
from harness.judge.latency import log_ratios

_GROWTH = 0.1
_EARLIER = 5_000
_LARGEST = 20
_RATIO = 0.1
_BLOCK = 200
_USERS = 2_000

Draw = Callable[[Block], Rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a guardrail of one metric sees."""

    margin: float
    """Also the mean."""
    bounds: tuple[float, float]
    """Of one observation."""
    draw: Draw
    """Latent ranks → observations, shape (runs, n)."""


Observing = Callable[[Condition, np.random.Generator], Observed]
"""One metric: (condition, source of what is not latent) → what it sees."""


def of_law(law: Law) -> Observed:
    """The law's values themselves."""
    return Observed(
        margin=law.margin, bounds=law.bounds, draw=lambda block: law.values(block.u, block.swing)
    )


def mean(condition: Condition, rng: np.random.Generator) -> Observed:
    """A difference of scores, request by request."""
    del rng
    return of_law(condition.law)


def share(condition: Condition, rng: np.random.Generator) -> Observed:
    """Flips: 0 or 1."""
    del rng
    return of_law(condition.law if condition.law.bounds == (0.0, 1.0) else SHARE)


def time_blocks(condition: Condition, rng: np.random.Generator) -> Observed:
    """Means of blocks of 200 requests."""
    return _means(mean(condition, rng), _BLOCK)


def user_means(condition: Condition, rng: np.random.Generator) -> Observed:
    """Means of users with 20 requests each."""
    return _means(mean(condition, rng), requests_of_a_unit())


def _means(requests: Observed, size: int) -> Observed:
    def draw(block: Block) -> Rows:
        x = requests.draw(block)
        means: Rows = x.reshape(len(x), -1, size).mean(axis=2, dtype=np.float64)
        return means

    return Observed(margin=requests.margin, bounds=requests.bounds, draw=draw)


def size_weighted(condition: Condition, rng: np.random.Generator) -> Observed:
    """Users of one window, drawn again and again as often as they have requests."""
    law = condition.law
    sizes = rng.geometric(1.0 / requests_of_a_unit(), _USERS)
    while True:
        x = law.values(np.repeat(rng.random(_USERS), sizes), 0.0)
        if x.any():  # a margin of 0 asks another question
            break
    ends = np.cumsum(sizes)
    means = np.add.reduceat(np.asarray(x, np.float64), ends - sizes) / sizes
    of_request = np.repeat(means, sizes)

    def draw(block: Block) -> Rows:
        return of_request[(block.u.astype(np.float64) * len(of_request)).astype(np.int64)]

    return Observed(margin=float(x.mean(dtype=np.float64)), bounds=law.bounds, draw=draw)


def latency_ratio(condition: Condition, rng: np.random.Generator) -> Observed:
    """Cut log-ratios; what slows a pair's both runs hangs together, what differs does not."""
    lo, hi = METRIC_BOUNDS[Metric.LATENCY_RATIO]
    law = condition.law
    edge = law.bounds[1]
    margin = law.margin + (0.02 * (hi - edge) if edge < hi else 0.0)

    def draw(block: Block) -> Rows:
        base = np.exp(2.0 * block.u.astype(np.float64)).ravel()
        own = block.u if not condition.hangs else rng.random(block.u.shape, np.float32)
        ratio = np.exp(law.raw(own, law.margin * (1.0 + block.swing)).ravel())
        values = log_ratios(base, base * ratio, np.zeros(len(base), np.bool_))
        return values.x.reshape(block.u.shape)

    return Observed(margin=margin, bounds=(lo, hi), draw=draw)


def latency_p99(condition: Condition, rng: np.random.Generator) -> Observed:
    """A candidate whose latencies are the baseline's, (1 + δ) times as long."""
    spread = 3.0 if condition.name == "heavy tails" else 0.5

    def times(state: Rows) -> Floats:
        noise = rng.standard_normal(state.shape, np.float32)
        return np.exp(state.astype(np.float64) + spread * noise)

    cut = exceedance_cut(times(rng.random(_EARLIER, np.float32)), _GROWTH)

    def draw(block: Block) -> Rows:
        state = (block.u * (1.0 + block.swing)).ravel()
        base, cand = times(state), (1.0 + _GROWTH) * times(state)
        nobody = np.zeros(len(base), np.bool_)
        values = exceedances(base, cand, nobody, cut_s=cut, ratio=_GROWTH)
        return values.x.reshape(block.u.shape)

    return Observed(margin=0.0, bounds=METRIC_BOUNDS[Metric.LATENCY_P99], draw=draw)


def excess_flip(condition: Condition, rng: np.random.Generator) -> Observed:
    """Versions that disagree with themselves; chances p and p + d of a positive, margin d²."""
    margin = condition.law.margin

    def draw(block: Block) -> Rows:
        p = 0.2 + 0.5 * block.u.ravel()
        q = p + np.float32(np.sqrt(margin * (1.0 + block.swing)))
        old, old2 = (rng.random(p.shape, np.float32) < p for _ in range(2))
        new, new2 = (rng.random(p.shape, np.float32) < q for _ in range(2))
        parts = [(a != b).astype(np.float64) for a, b in ((new, old), (old, old2), (new, new2))]
        return excess_flips(*parts).reshape(block.u.shape)

    return Observed(margin=margin, bounds=METRIC_BOUNDS[Metric.EXCESS_FLIP], draw=draw)


def ratio(condition: Condition, rng: np.random.Generator) -> Observed:
    """Errors per row, a request's rows all wrong or all right."""
    del condition

    def draw(block: Block) -> Rows:
        rows = np.floor(1.0 + (_LARGEST - 1) * rng.random(block.u.size) ** 4)
        wrong = rows * (block.u.ravel() < _RATIO * (1.0 + block.swing))
        return ratio_values(wrong, rows, _RATIO).reshape(block.u.shape)

    lo, hi = -_RATIO * _LARGEST, float(_LARGEST)
    return Observed(margin=0.0, bounds=(lo, hi), draw=draw)
