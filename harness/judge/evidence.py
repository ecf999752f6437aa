"""One test's numbers, verdict and the sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.core.policies import Against, Direction, Metric
from harness.core.scales import limit_on_scale, on_scale
from harness.core.verdicts import Evidence, PathPoint, Status, Verdict
from harness.judge.binned import BinnedTrack
from harness.judge.plan import PlannedTest
from harness.judge.track import Track

_LARGEST = 1e300

_OPENINGS = {
    Verdict.NO_DATA: "No request could be measured, so nothing is proven",
    Verdict.FAIL: "Proven beyond the tolerated {tolerated}",
    Verdict.PASS: "Proven within the tolerated {tolerated}",
    Verdict.INCONCLUSIVE: "Neither within nor beyond the tolerated {tolerated} is proven",
}

_LEFT_OUT_WORDS = {
    "no_label": "have no label that counts",
    "both_failed": "failed in both versions",
    "baseline_failed": "failed in the baseline only",
    "not_run": "were not run through both versions",
    "no_rows": "carry no rows",
    "not_measured": "could not be measured",
    "label_of_no_two": "have a label that is neither 0 nor 1",
}
_BESIDE_ANCHOR = {
    "both_failed": "failed in the candidate and the anchor",
    "baseline_failed": "failed in the anchor only",
    "not_run": "were not run through the candidate and the anchor",
}
"""The same of a guardrail that reads the anchor in the baseline's place."""


def evidence_of(
    test: PlannedTest,
    track: Track | BinnedTrack,
    status: Status,
    left_out: Mapping[str, int],
    proven: PathPoint | None,
) -> Evidence:
    """Words and numbers of one test.

    Args:
      test: what was asked.
      track: what was seen.
      status: of all tests at this look.
      left_out: reason → requests of the guardrail that did not enter.
      proven: the look that proved harm; None = none did.

    Returns:
      Evidence whose verdict FAIL means "named by e-BH" for gating tests and "e ≥ 1/α_R on its own"
      for others, at any look.
    """
    path = track.path()
    lower, upper = (path[-1].lower, path[-1].upper) if path else track.interval()
    log_promote, log_rollback = track.log_e_promote(), track.log_e_rollback()
    return Evidence(
        name=test.name,
        guardrail=test.guardrail.name,
        metric=test.guardrail.metric.value,
        window=test.guardrail.window.value,
        slice=test.slice,
        margin=test.margin,
        direction=test.guardrail.direction.value,
        gating=test.gating,
        verdict=_verdict(track, status, proven),
        reason=_reason(test, track, status, (lower, upper), proven) + _left_out(test, left_out),
        subject=_subject(test),
        n=track.n,
        n_available=test.n_available,
        n_failed=track.n_failed,
        e_promote=_capped(log_promote),
        e_rollback=_capped(log_rollback),
        lower=lower,
        upper=upper,
        weight=test.weight,
        path=path,
        proven=proven,
    )


def _capped(log_e: float) -> float:
    return math.exp(log_e) if log_e < math.log(_LARGEST) else _LARGEST


def _verdict(track: Track | BinnedTrack, status: Status, proven: PathPoint | None) -> Verdict:
    if not track.n:
        return Verdict.NO_DATA
    if proven is not None:
        return Verdict.FAIL
    if track.n > track.n_failed and track.log_e_promote() >= math.log(1.0 / status.alpha_promote):
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


def _reason(
    test: PlannedTest,
    track: Track | BinnedTrack,
    status: Status,
    interval: tuple[float, float],
    proven: PathPoint | None,
) -> str:
    verdict = _verdict(track, status, proven)
    level = 1.0 - status.alpha_promote - status.alpha_rollback
    text = _OPENINGS[verdict].format(tolerated=_tolerated(test))
    if verdict is not Verdict.NO_DATA:
        text += f": {_span(test, track, interval, proven)} ({level:.0%} at every look)"
    if isinstance(track, BinnedTrack):
        text += f"; {track.words()}"
    if track.n_failed:
        failed = "failed and counts" if track.n_failed == 1 else "failed and count"
        text += f"; {track.n_failed:,} of {track.n:,} {failed} as the worst value"
    if verdict is Verdict.INCONCLUSIVE and test.gating and status.rollback and not status.culprits:
        share = dict(status.shares)[test.name]
        text += f"; it carries {share:.0%} of the harm that all prove together"
    if not test.guardrail.gating:
        text += "; reported, never decides"
    elif not test.gating:
        text += "; too few requests for a claim of its own: harm that is proven here holds the candidate"
    return text + "."


def _span(
    test: PlannedTest,
    track: Track | BinnedTrack,
    interval: tuple[float, float],
    proven: PathPoint | None,
) -> str:
    """Where the mean lies; for proven harm at the look that proved it, and now."""
    mean = "the mean"
    if test.guardrail.metric is Metric.LATENCY_RATIO:
        mean = "the growth, by the clipped mean,"
    if isinstance(track, BinnedTrack):
        mean = "the mean of every bin" if proven is None else "the mean of the farthest bin"
    now = _ends(test, interval)
    if proven is None:
        return f"{mean} lies in {now}"
    then = _ends(test, (proven.lower, proven.upper))
    if proven.n == track.n:
        return f"{mean} lies in {then}"
    return f"after {proven.n:,} requests {mean} lay in {then}; after {track.n:,} it lies in {now}"


def _ends(test: PlannedTest, interval: tuple[float, float]) -> str:
    metric = test.guardrail.metric
    return f"[{on_scale(metric, interval[0])}, {on_scale(metric, interval[1])}]"


def _tolerated(test: PlannedTest) -> str:
    rail = test.guardrail
    of = "growth" if rail.metric is Metric.LATENCY_RATIO else "mean"
    words = limit_on_scale(rail.metric, test.margin, rail.direction)
    return f"{of} {words}" if rail.direction is Direction.BOTH else f"{of} of {words}"


def _left_out(test: PlannedTest, left_out: Mapping[str, int]) -> str:
    """Only beside all traffic: slices would need counts of their own."""
    if test.column or not left_out:
        return ""
    told = (
        " Requests that count as failed, as the claim is about every one of them: "
        if test.population is not None
        else " Requests that did not enter: "
    )
    words = dict(_LEFT_OUT_WORDS)
    if test.guardrail.against is Against.ANCHOR:
        words |= _BESIDE_ANCHOR
    parts = [f"{n:,} {words.get(why, why)}" for why, n in sorted(left_out.items())]
    return f"{told}{', '.join(parts)}."


def _subject(test: PlannedTest) -> str:
    where = f" with {test.slice}" if test.slice else ""
    made = _MADE.get(test.guardrail.metric)
    if made is not None:
        return _made_subject(test, made, where)
    if test.population is not None:
        return _exact_subject(test)
    if test.guardrail.range is not None:
        lo, hi = test.guardrail.range
        return f"clipped mean over rows like the table's{where}, each cut to [{lo:g}, {hi:g}]"
    if test.guardrail.against is Against.ANCHOR:
        where += ", as differences from the anchor"
    if test.guardrail.column:
        return f"mean over rows like the table's{where}"
    return f"mean over requests like the {test.guardrail.window.value} window's{where}"


_MADE = {
    Metric.EXCESS_FLIP: "mean of flips less half of both versions' own",
    Metric.CALIBRATION_SHIFT: "mean of outcome minus candidate's score in bins of the baseline's,",
    Metric.LATENCY_RATIO: "clipped mean of log(candidate's / baseline's time), cut to [-1, 1],",
    Metric.LATENCY_P99: "share slower than the cut-off, less that of a baseline slowed by {margin:g},",
    Metric.RATIO: "clipped mean of numerator − {ratio:g}·denominator",
}
"""Metrics whose observations are made from several numbers, as the subject of a verdict."""


def _made_subject(test: PlannedTest, made: str, where: str) -> str:
    rail = test.guardrail
    what = made.format(margin=rail.margin, ratio=rail.ratio)
    if test.population is not None:
        return (
            f"{what} over exactly the {test.population:,} requests; failed ones count as the worst"
        )
    like = (
        f"rows like the table's{where}"
        if rail.column
        else f"requests like the {rail.window.value} window's{where}"
    )
    return f"{what} over {like}"


def _exact_subject(test: PlannedTest) -> str:
    rail = test.guardrail
    every = test.population == test.n_available + test.read.n
    rows = (
        ("rows of the table" if every else "rows that the table was drawn from")
        if rail.column
        else f"requests drawn from the {rail.window.value} window"
    )
    clipped = f", each cut to [{rail.range[0]:g}, {rail.range[1]:g}]" if rail.range else ""
    mean = "clipped mean" if rail.range else "mean"
    if rail.against is Against.ANCHOR:
        rows += ", as differences from the anchor"
    return f"{mean} over exactly the {test.population:,} {rows}{clipped}; failed ones count as the worst"
