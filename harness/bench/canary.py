"""Canaries by the hundred: how often a harmless one is rolled back, how soon a harmful one is.

Whole canaries in process: users who come back, each with a level of their own; the split, the intake,
labels that come later, the ramp and the judge are the product's. Harmless is meant twice: the same
model again, and candidates exactly at margins, which is where the error rate is α: at all margins but that
of NaN at once, and at that of NaN alone. Together, failures and NaN would leave more of the candidate's
requests without a value than the ramp puts up with: it would stand still whatever the tests say, and
"promoted at the margin" could not fail. So each has fewer of them than that, failures of before included.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from harness.bench.figures import Figure, Figures
from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric, Ramp
from harness.core.policies import Loss
from harness.core.tensors import Bools, Floats
from harness.core.verdicts import Decision
from harness.live.canary import Canary
from harness.live.labels import Label
from harness.live.unusable import sent_unusable

RUNS = 200
_SURE = 0.9999
_ALPHA = 0.05
_BATCH = 200
_SECOND_NS = 1_000_000_000
_PER_SECOND = 20
_START_NS = 10**18
_USERS = 6_000
_LABEL_AFTER_S = 20.0
_MOST = 8_000
_ERRORS_BEFORE = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What the candidate does otherwise; every field is a difference from the baseline."""

    name: str
    score: float = 0.0
    """Of the mean score."""
    rate: float = 0.0
    """Of the share of positive decisions."""
    slow: float = 0.0
    """Of the share of slow answers."""
    failed: float = 0.0
    """Of the share of failures."""
    nan: float = 0.0
    """Of the share of answers that are NaN."""
    outside: float = 0.0
    """Of the share of answers whose score is outside of 0 and 1."""
    loss: float = 0.0
    """Of the mean loss of what is answered; a failure costs 1, and so does NaN."""
    hang: float = 0.0
    """Of the share of requests that never have an answer."""
    hang_before: float = 0.0
    """The share that neither version ever answers; no difference."""


_FAILED_MARGIN, _NAN_MARGIN, _LOSS_MARGIN, _LOSS_BEFORE = 0.03, 0.03, 0.06, 0.4
MARGINS = Harm(
    name="exactly at every margin but NaN's",
    score=0.05,
    rate=0.08,
    slow=0.08,
    failed=_FAILED_MARGIN,
    # What has no score costs 1 and is part of the mean that the margin is about.
    loss=(_LOSS_MARGIN - _FAILED_MARGIN * (1.0 - _LOSS_BEFORE))
    / (1.0 - _ERRORS_BEFORE - _FAILED_MARGIN),
)
NAN_MARGIN = Harm(name="exactly at NaN's margin", nan=_NAN_MARGIN)
AT_MARGINS = (MARGINS, NAN_MARGIN)
HARMLESS = (
    Harm(name="the same model"),
    Harm(name="the same model, and both hang as often", hang_before=0.02),
    *AT_MARGINS,
)
HARMS = (
    Harm(name="rate", rate=0.35),
    Harm(name="score", score=0.2),
    Harm(name="latency", slow=0.4),
    Harm(name="errors", failed=0.25),
    Harm(name="NaN", nan=0.25),
    Harm(name="scores outside of 0 and 1", outside=0.25),
    Harm(name="label loss", loss=0.35),
    Harm(name="hang", hang=0.25),
)


def live_of_bench() -> Live:
    """Six gating guardrails with the margins of `AT_MARGINS`, and error counts that report."""

    def shift(name: str, metric: LiveMetric, margin: float, variance: float) -> LiveGuardrail:
        return LiveGuardrail(
            name=name, kind=LiveKind.SHIFT, metric=metric, margin=margin, gap=margin,
            second_moment=variance,
        )  # fmt: skip

    loss = LiveGuardrail(
        name="loss", kind=LiveKind.SHIFT, metric=LiveMetric.LOSS, loss=Loss.ABSOLUTE,
        margin=_LOSS_MARGIN, gap=_LOSS_MARGIN, second_moment=0.05, label_maturity_s=60.0,
    )  # fmt: skip
    return Live(
        guardrails=(
            shift("score", LiveMetric.SCORE, MARGINS.score, 0.02),
            shift("rate", LiveMetric.RATE, MARGINS.rate, 0.2),
            shift("slow", LiveMetric.LATENCY, MARGINS.slow, 0.1),
            shift("failed", LiveMetric.FAILURE, _FAILED_MARGIN, 0.03),
            shift("nan", LiveMetric.NAN, _NAN_MARGIN, 0.02),
            loss,
            LiveGuardrail(name="errors", kind=LiveKind.ERRORS, margin=4.0, gating=False),
        ),
        steps=(0.05, 0.25, 0.5),
        unit="user",
        ramp=Ramp(stay_requests=400),
        patience_s=5.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One simulated canary."""

    decision: Decision
    """HOLD = undecided when traffic ended."""
    reason: str
    exposed: int
    """Requests that the candidate answered."""


def run_canary(live: Live, harm: Harm, seed: int, most: int = _MOST) -> Ran:
    """One canary from its first request to its verdict.

    Args:
      live: from `live_of_bench`.
      harm: of the candidate.
      seed: of users, outcomes and split.
      most: requests after which traffic ends.
    """
    rng = np.random.default_rng(seed)
    canary = Canary(live, f"seed {seed}")
    level = rng.normal(0.0, 0.05, _USERS)
    labels: deque[tuple[int, Label]] = deque()
    now_ns, exposed = _START_NS, 0
    standing = canary.standing()
    for _ in range(math.ceil(most / _BATCH)):
        # Few users make most requests.
        users = (rng.random(_BATCH) ** 2 * _USERS).astype(np.int64)
        arrivals = []
        for user in users.tolist():
            now_ns += _SECOND_NS // _PER_SECOND
            arrival = canary.route(f"u{user}", now_ns)
            if arrival is not None:
                arrivals.append(arrival)
        candidate = np.array([a.candidate for a in arrivals], np.bool_)
        exposed += int(np.count_nonzero(candidate))
        values, losses = _outcomes(live, rng, harm, level[users], candidate)
        hangs = _hanging(rng, harm, candidate)
        for i, arrival in enumerate(arrivals):
            if hangs[i]:
                continue
            given = {name: float(column[i]) for name, column in values.items()}
            canary.answered(arrival.seq, given, {"loss": float(losses[i])})
            at_ns = arrival.ts_ns + round(_LABEL_AFTER_S * 1e9)
            labels.append((at_ns, Label(unit=f"u{users[i]}", value=0.0, ts_ns=at_ns)))
        while labels and labels[0][0] <= now_ns:
            canary.labelled(labels.popleft()[1])
        standing = canary.judge(canary.batch(now_ns + 1))
        if standing.final:
            break
    else:
        # Who is still waited for has hung by then.
        standing = canary.judge(canary.batch(now_ns + round(live.patience_s * 1e9) + 1))
    return Ran(decision=standing.decision, reason=standing.reason, exposed=exposed)


def _outcomes(
    live: Live, rng: np.random.Generator, harm: Harm, level: Floats, candidate: Bools
) -> tuple[dict[str, Floats], Floats]:
    """(guardrail → values, what each answer will cost); NaN where the request has none."""
    n = len(candidate)
    new = candidate.astype(np.float64)
    drawn, failing = rng.random(n), _ERRORS_BEFORE + harm.failed * new
    failed = drawn < failing
    lost = drawn < failing + harm.nan * new
    # Such a score has a decision, and is none.
    outside = ~lost & (drawn < failing + (harm.nan + harm.outside) * new)

    def answered(column: Floats) -> Floats:
        return np.where(lost, np.nan, np.clip(column, 0.0, 1.0))

    def binary(chance: float, more: float) -> Floats:
        return answered((rng.random(n) < chance + level + more * new).astype(np.float64))

    def between(mean: float, more: float) -> Floats:
        return answered(mean + level + more * new + rng.uniform(-0.1, 0.1, n))

    values = {
        "score": np.where(outside, np.nan, between(0.4, harm.score)),
        "rate": binary(0.3, harm.rate),
        "slow": binary(0.2, harm.slow),
        "failed": failed.astype(np.float64),
        "nan": np.where(failed, np.nan, lost.astype(np.float64)),
        "errors": failed.astype(np.float64),
    }
    # A label of 0 makes the absolute loss the answer itself.
    losses = np.where(outside, np.nan, between(_LOSS_BEFORE, harm.loss))
    return sent_unusable(live, values), losses


def _hanging(rng: np.random.Generator, harm: Harm, candidate: Bools) -> Bools:
    """Which requests never have an answer; draws nothing where none hangs."""
    if not (harm.hang or harm.hang_before):
        return np.zeros(len(candidate), np.bool_)
    return np.asarray(rng.random(len(candidate)) < harm.hang_before + harm.hang * candidate)


def bench_canary(
    runs: int = RUNS, seed: int = 6, told: Callable[[str], None] = lambda _: None
) -> Figures:
    """Rollbacks of harmless candidates, rollbacks of harmful ones and their cost.

    Args:
      runs: canaries of each kind.
      seed: of the first one.
      told: hears what begins.
    """
    live = live_of_bench()
    figures = []
    bound = float(binom.ppf(_SURE, runs, _ALPHA))
    for harm in HARMLESS:
        told(f"{runs:,} canaries: {harm.name}")
        found = [run_canary(live, harm, seed + i) for i in range(runs)]
        rolled = sum(ran.decision is Decision.ROLLBACK for ran in found)
        promoted = sum(ran.decision is Decision.PROMOTE for ran in found)
        figures.append(
            Figure(name=f"rolled back: {harm.name}", value=rolled, unit=f"of {runs}", limit=bound,
                   note=f"α {_ALPHA:g}; {promoted} promoted")
        )  # fmt: skip
        if harm in AT_MARGINS:
            figures.append(
                Figure(name=f"promoted: {harm.name}", value=promoted, unit=f"of {runs}", limit=bound,
                       note=f"α {_ALPHA:g}")
            )  # fmt: skip
    for harm in HARMS:
        told(f"{runs:,} canaries: {harm.name}")
        found = [run_canary(live, harm, seed + i) for i in range(runs)]
        rolled_back = [ran for ran in found if ran.decision is Decision.ROLLBACK]
        exposed: Floats = np.array([float(ran.exposed) for ran in rolled_back] or [math.inf])
        figures += [
            Figure(name=f"rolled back: {harm.name}", value=len(rolled_back), unit=f"of {runs}",
                   limit=runs, at_most=False),
            Figure(name=f"exposed until then: {harm.name}", value=float(np.median(exposed)),
                   unit="requests", note=f"median; 90 % within {np.quantile(exposed, 0.9):,.0f}"),
        ]  # fmt: skip
    return Figures(title="Canaries, whole and in process", figures=tuple(figures))
