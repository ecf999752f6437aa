"""What would settle a HOLD: which guardrail is farthest, how much more traffic, which margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.verdicts import Evidence, Status, Verdict


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
        f"[{evidence.lower:.4g}, {evidence.upper:.4g}], tolerated is {_tolerated(evidence)}. "
    )
    subject = f" with {evidence.slice}" if evidence.slice else ""
    if math.isfinite(found.more):
        text += (
            f"About {_rounded(found.more)} more requests{subject} at the observed rate settle it."
        )
    elif math.isfinite(found.harm):
        text += (
            "It leans towards harm: more traffic will not pass it; "
            f"about {_rounded(found.harm)} more requests{subject} would prove the harm."
        )
    else:
        text += "At the observed rate more traffic like this settles it neither way."
    if found.permitted is not None and found.permitted > evidence.margin:
        text += f" The evidence already permits a margin of {found.permitted:.2g}."
    return text


def _more(evidence: Evidence, logs: list[float], bar: float) -> float:
    path = evidence.path
    if not path:
        return math.inf
    last = path[-1]
    half = next(i for i, point in enumerate(path) if 2 * point.n >= last.n)
    start_n, start = (path[half].n, logs[half]) if path[half].n < last.n else (0, 0.0)
    slope = (logs[-1] - start) / (last.n - start_n)
    if logs[-1] >= bar:
        return 0.0
    return (bar - logs[-1]) / slope if slope > 0.0 else math.inf


def _permitted(evidence: Evidence) -> float | None:
    """Rounded up to two digits, so that it is never below what is proven."""
    limit = {
        "increase": evidence.upper,
        "decrease": -evidence.lower,
        "both": max(-evidence.lower, evidence.upper),
    }[evidence.direction]
    if limit <= 0.0 or limit >= 1.0:
        return None
    digit = 10.0 ** (math.floor(math.log10(limit)) - 1)
    return math.ceil(limit / digit) * digit


def _tolerated(evidence: Evidence) -> str:
    return {
        "increase": f"at most {evidence.margin:g}",
        "decrease": f"at least {-evidence.margin:g}",
        "both": f"±{evidence.margin:g}",
    }[evidence.direction]


def _rounded(count: float) -> str:
    """Two digits, upwards: a forecast is no more precise."""
    digit = 10 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1)
    return f"{math.ceil(count / digit) * digit:,}"
