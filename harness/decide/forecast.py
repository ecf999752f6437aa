"""What would settle a HOLD: which guardrail is farthest, how much more traffic, which margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.policies import LATENCY_METRICS, Metric, Policy, WindowName
from harness.core.scales import limit_on_scale, on_scale
from harness.core.verdicts import Evidence, Status, Verdict

_EARLY = 100
"""Fewer observations show no rate: the first of them are spent on learning which bet pays."""
_LEANING = math.log(3.0)
"""log E below which evidence for harm is no more than chance gives every third time."""

_NO_MARGIN = frozenset({Metric.LATENCY_P99.value, Metric.RATIO.value})
"""Metrics whose limit lies in their observations: another limit makes others of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How far one test is from its promotion."""

    evidence: Evidence
    """The test."""
    more: float
    """Further observations at the observed growth until it passes; inf = never at this rate."""
    harm: float
    """Further observations until it would prove harm by itself; inf = never at this rate."""
    permitted: float | None
    """Smallest margin that the confidence sequence already permits; None without data."""


def farthest(evidence: Sequence[Evidence], status: Status) -> Forecast | None:
    """The gating test that keeps the candidate from promotion the longest; None if all pass.

    Growth is the slope of log e over the later half of the path: the first observations are spent
    on learning which bet pays.
    """
    waiting = [forecast(e, status) for e in evidence if e.gating and e.verdict is not Verdict.PASS]
    return max(waiting, key=lambda f: (f.more, -f.evidence.e_promote), default=None)


def forecast(evidence: Evidence, status: Status) -> Forecast:
    """Extrapolates one test's evidence."""
    promote = [point.log_e_promote for point in evidence.path]
    rollback = [point.log_e_rollback for point in evidence.path]
    weight = max(evidence.weight, 1e-12)
    return Forecast(
        evidence=evidence,
        more=_more(evidence, promote, math.log(1.0 / status.alpha_promote)),
        harm=_more(evidence, rollback, math.log(1.0 / (status.alpha_rollback * weight))),
        permitted=_permitted(evidence) if evidence.n else None,
    )


def words(found: Forecast) -> str:
    """One or two sentences for a release manager."""
    evidence = found.evidence
    if not evidence.n:
        return (
            f"'{evidence.name}' has no data: find out why it could not be measured, "
            "or take it out of the policy."
        )
    text = (
        f"Farthest from proof is '{evidence.name}': its mean lies in "
        f"[{on_scale(evidence.metric, evidence.lower)}, {on_scale(evidence.metric, evidence.upper)}], tolerated is {limit_on_scale(evidence.metric, evidence.margin, evidence.direction)}. "
    )
    what = "units" if "units of " in evidence.subject else "requests"
    if "rows" in evidence.subject:
        what = "rows"
    subject = f"{what} with {evidence.slice}" if evidence.slice else what
    text += _outlook(found, subject)
    if found.permitted is not None:
        text += f" The evidence already permits a margin of {found.permitted:.2g}."
    return text


def _outlook(found: Forecast, subject: str) -> str:
    """Where more traffic would lead, if the observations so far show it."""
    if found.evidence.n < _EARLY:
        n = found.evidence.n
        what, slash, where = subject.partition(" with ")
        seen = f"{n:,} {what.removesuffix('s') if n == 1 else what}{slash}{where}"
        return (
            f"After {seen} it is too early to tell where it leads: `harness plan` says "
            "how many it needs."
        )
    if math.isfinite(found.more):
        return f"About {_rounded(found.more)} more {subject} at the observed rate settle it."
    if math.isfinite(found.harm) and found.evidence.path[-1].log_e_rollback >= _LEANING:
        return (
            "It leans towards harm: more traffic will not pass it; "
            f"about {_rounded(found.harm)} more {subject} would prove the harm."
        )
    return (
        "So far the evidence grows towards neither answer, so how many more it takes cannot be told: "
        "`harness plan` says what is usual."
    )


def of_a_sample(found: Forecast) -> bool:
    """Whether its requests are those that a gate replays singly: a sample, however much traffic there is."""
    evidence = found.evidence
    return evidence.metric in LATENCY_METRICS and evidence.window == WindowName.NEWEST


def sample_words(found: Forecast, policy: Policy, selected: int) -> str:
    """Which key to raise for more requests of a test that `of_a_sample` is true of.

    Args:
      found: the test; a raised key is another policy, which begins without its evidence.
      policy: the run's.
      selected: requests that the policy selects from the traffic for the newest window.
    """
    sample, limit = policy.latency.sample, policy.windows.max_requests
    here = min(selected, limit)
    wanted = policy.latency.planning + found.evidence.n + found.more
    known = math.isfinite(wanted)
    said = []
    if sample < here or (known and wanted > sample):
        about = f" to about {_rounded(max(wanted, sample + 1.0))}" if known else ""
        said.append(
            f"A gate replays at most latency.sample ({sample:,}) requests singly, however much traffic "
            f"there is: raise that key{about}, as another policy, judged anew."
        )
    if sample >= here or (known and wanted > here):
        missing = ["record more"] if here == selected or (known and wanted > selected) else []
        missing += ["raise windows.max_requests"] if here == limit else []
        said.append(f"The newest window gives at most {here:,}: {' and '.join(missing)}.")
    return " ".join(said)


def _more(evidence: Evidence, logs: list[float], bar: float) -> float:
    path = evidence.path
    if not path:
        return math.inf
    last = path[-1]
    # The later half, at least: a few rows more or less must not turn the forecast round.
    start_n, start = max(
        ((p.n, log) for p, log in zip(path, logs, strict=True) if 2 * p.n <= last.n),
        default=(0, 0.0),
    )
    slope = (logs[-1] - start) / (last.n - start_n)
    if logs[-1] >= bar:
        return 0.0
    return (bar - logs[-1]) / slope if slope > 0.0 else math.inf


def _permitted(evidence: Evidence) -> float | None:
    """Rounded up to two digits, so that it is never below what is proven.

    None where no margin on the policy's own scale would be wider than the one that was asked for.
    """
    if evidence.metric in _NO_MARGIN:
        return None
    limit = {
        "increase": evidence.upper,
        "decrease": -evidence.lower,
        "both": max(-evidence.lower, evidence.upper),
    }[evidence.direction]
    if not evidence.margin < limit < 1.0:
        return None
    if evidence.metric == Metric.LATENCY_RATIO:
        limit = math.expm1(limit)
    digit = 10.0 ** (math.floor(math.log10(limit)) - 1)
    return math.ceil(limit / digit) * digit


def _rounded(count: float) -> str:
    """Two digits, upwards: a forecast is no more precise."""
    digit = 10 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1)
    return f"{math.ceil(count / digit) * digit:,}"
