"""Positions for the drawings; the template only draws what stands here.

Coordinates are percent of the drawing, so that one drawing fits a phone and a wide screen. A
drawing that would have to invent something (no finite interval, one look only) is None instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.report.plots import Bar, Curve, Level, Span, Tick, TimeLine, Zone
from harness.report.tones import Tone
from harness.report.words import (
    DAY_NS,
    Metric,
    between,
    count,
    day,
    interval,
    moment,
    tolerated,
    value_in_unit,
)

_LOG_FROM = 20.0
"""A path whose last look is this many times its first is drawn over log n."""
_MOST_POINTS = 160
"""Points drawn of a path; more cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep:
    """The evidence after n requests, as far as it was recorded."""

    n: int
    """Requests, ≥ 1."""
    lower: float
    """May be −inf."""
    upper: float
    """May be +inf."""
    log_e_promote: float | None
    """Natural log."""
    log_e_rollback: float | None
    """Natural log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a drawing needs to know of one Evidence."""

    metric: Metric
    """Its words and unit."""
    margin: float | None
    """Finite and ≥ 0, else None; 0 where a ratio is tested."""
    direction: str
    """increase, decrease or both."""
    verdict: str
    """PASS, FAIL, INCONCLUSIVE, NO_DATA."""
    lower: float | None
    """Final interval."""
    upper: float | None
    """Final interval."""
    tone: Tone
    """The verdict's."""


def harm_ends(judged: Judged) -> tuple[float | None, float | None]:
    """Below which and above which value harm begins; None for a harmless side."""
    if judged.margin is None:
        return None, None
    low = -judged.margin if judged.direction in ("decrease", "both") else None
    high = judged.margin if judged.direction != "decrease" else None
    return low, high


def shared_reach(rows: tuple[Judged, ...]) -> float:
    """How many margins the bars of one table reach to each side, from 1.6 to 4."""
    reach = 1.6
    for row in rows:
        if not row.margin or row.lower is None or row.upper is None:
            continue
        widest = max(abs(row.lower), abs(row.upper)) / row.margin
        reach = max(reach, min(4.0, 1.1 * widest))
    return reach


def bar(judged: Judged, reach: float) -> Bar | None:
    """The final interval in units of the margin, so that the margins of all rows line up.

    None where there is no such unit: a ratio is tested against 0.
    """
    margin = judged.margin
    if not margin or judged.lower is None or judged.upper is None:
        return None
    low, high = harm_ends(judged)

    def at(value: float) -> float:
        return round(50 + 50 * min(max(value / margin / reach, -1.0), 1.0), 2)

    left, right = at(judged.lower), at(judged.upper)
    # An exact interval is a hair line, not nothing.
    left, width = min(left, 99.2), max(right - left, 0.8)
    return Bar(
        left=left,
        width=round(width, 2),
        zero=50.0,
        margin_low=None if low is None else at(low),
        margin_high=None if high is None else at(high),
        clipped_left=judged.lower < -reach * margin,
        clipped_right=judged.upper > reach * margin,
        tone=judged.tone,
    )


def curve(
    judged: Judged, path: tuple[PathStep, ...], alpha: tuple[float, float], once: str = "requests"
) -> Curve | None:
    """The confidence sequence of one guardrail.

    Args:
      judged: its verdict and margin.
      path: looks in the order they were taken.
      alpha: (promote, rollback) error rates; they say where the verdict was proven.
      once: what counts once.

    Returns:
      None for fewer than two looks with an interval.
    """
    steps = tuple(s for s in path if math.isfinite(s.lower) or math.isfinite(s.upper))
    if len(steps) < 2 or steps[-1].n <= steps[0].n:  # noqa: PLR2004 - a curve needs two points
        return None
    logarithmic = steps[-1].n >= _LOG_FROM * steps[0].n
    bottom, top = _value_range(judged, steps)
    first, last = float(steps[0].n), float(steps[-1].n)

    def x(n: float) -> float:
        if logarithmic:
            return 100 * math.log(n / first) / math.log(last / first)
        return 100 * (n - first) / (last - first)

    def y(value: float) -> float:
        return 100 * (1 - (min(max(value, bottom), top) - bottom) / (top - bottom))

    drawn = _thinned(steps)
    uppers = [f"{x(s.n):.2f},{y(s.upper):.2f}" for s in drawn]
    lowers = [f"{x(s.n):.2f},{y(s.lower):.2f}" for s in drawn]
    proven = _proven_at(judged.verdict, steps, alpha)
    low, high = harm_ends(judged)
    margins = [value for value in (high, low) if value is not None]
    harm = []
    if high is not None:
        harm.append(Zone(top=0.0, height=round(y(high), 2)))
    if low is not None:
        harm.append(Zone(top=round(y(low), 2), height=round(100 - y(low), 2)))
    return Curve(
        band=" ".join([*uppers, *reversed(lowers)]),
        lower=" ".join(lowers),
        upper=" ".join(uppers),
        margins=tuple(
            Level(
                at=round(y(m), 2),
                label=f"margin {value_in_unit(judged.metric, m)}",
                # A failing curve ends beyond the margin, every other one within; the lowest
                # line of the plot is kept free for the words about the proof.
                above=_label_above(y(m), preferred=m < 0 or judged.verdict != "FAIL"),
            )
            for m in margins
        ),
        harm=tuple(harm),
        zero=round(y(0.0), 2) if bottom <= 0 <= top else None,
        last=(99.6, round(y(steps[-1].lower), 2), round(y(steps[-1].upper), 2)),
        proven=None if proven is None else round(x(proven), 2),
        proven_on_top=judged.verdict == "FAIL",
        proven_label="" if proven is None else f"proven by {count(proven)} {once}",
        x_ticks=_x_ticks(first, last, x, logarithmic=logarithmic),
        y_ticks=tuple(
            Tick(at=round(y(v), 2), label=value_in_unit(judged.metric, v))
            for v in _nice(bottom, top)
        ),
        x_label=f"{once} judged" + (", log scale" if logarithmic else ""),
        text=_in_words(judged, steps, proven, once),
    )


def _value_range(judged: Judged, steps: tuple[PathStep, ...]) -> tuple[float, float]:
    """The range of y: margins, zero and the later three quarters of the path; the early funnel is cut."""
    shown = [0.0]
    low, high = harm_ends(judged)
    shown += [1.35 * value for value in (low, high) if value is not None]
    for step in steps[len(steps) // 4 :: max(1, len(steps) // 40)] + steps[-1:]:
        shown += [value for value in (step.lower, step.upper) if math.isfinite(value)]
    bottom, top = min(shown), max(shown)
    room = 0.06 * (top - bottom) or 1.0
    never_negative = not judged.metric.signed and bottom >= 0
    return (0.0 if never_negative else bottom - room), top + room


def _label_above(at: float, *, preferred: bool) -> bool:
    """Keeps a label inside the plot when its line is near an edge; percent from the top."""
    return at > 88 or (preferred and at >= 12)  # noqa: PLR2004 - a label's height


def _thinned(steps: tuple[PathStep, ...]) -> tuple[PathStep, ...]:
    if len(steps) <= _MOST_POINTS:
        return steps
    stride = -(-len(steps) // _MOST_POINTS)
    kept = steps[::stride]
    return kept if kept[-1] is steps[-1] else (*kept, steps[-1])


def _proven_at(
    verdict: str, steps: tuple[PathStep, ...], alpha: tuple[float, float]
) -> float | None:
    """The first recorded look at which the verdict's e-value reached 1/α."""
    if verdict not in ("PASS", "FAIL"):
        return None
    level = alpha[0] if verdict == "PASS" else alpha[1]
    if not 0 < level < 1:
        return None
    for step in steps:
        log_e = step.log_e_promote if verdict == "PASS" else step.log_e_rollback
        if log_e is not None and log_e >= -math.log(level):
            return step.n
    return None


def _nice(bottom: float, top: float, about: int = 4) -> tuple[float, ...]:
    """Round values within a range: multiples of 1, 2 or 5 times a power of ten."""
    span = top - bottom
    if not 0 < span < math.inf:
        return ()
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(bottom / step - 1e-9)
    final = math.floor(top / step + 1e-9)
    if final - first > 4 * about:
        return ()
    return tuple(round(i * step, 12) + 0.0 for i in range(first, final + 1))


def _x_ticks(
    first: float, last: float, x: Callable[[float], float], *, logarithmic: bool
) -> tuple[Tick, ...]:
    if logarithmic:
        exponents = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
        values = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
        values = [v for v in values if first <= v <= last]
        values = values[:: max(1, -(-len(values) // 5))]
    else:
        values = [v for v in _nice(first, last) if first <= v <= last]
    # The last look is labelled itself; a tick that would touch it is left out.
    ticks = [Tick(at=round(x(v), 2), label=count(v)) for v in values if x(v) <= 80]  # noqa: PLR2004
    return (*ticks, Tick(at=100.0, label=count(last)))


def _in_words(judged: Judged, steps: tuple[PathStep, ...], proven: float | None, once: str) -> str:
    last = steps[-1]
    ends = interval(judged.metric, last.lower, last.upper, judged.margin)
    limit = tolerated(judged.metric, judged.margin, judged.direction)
    when = f" Proven by {count(proven)} {once}." if proven is not None else ""
    return f"After {count(last.n)} {once} the mean lies {between(ends)}; tolerated: {limit}.{when}"


def time_line(spans: tuple[tuple[str, int, int, Tone, str], ...]) -> TimeLine | None:
    """Windows and training data on one axis.

    Args:
      spans: (label, first_ts_ns, last_ts_ns, tone, words) each; first 0 = open to the left.

    Returns:
      None when there is nothing with a length to draw.
    """
    ends = [t for _, first, last, _, _ in spans for t in (first, last) if t > 0]
    if len(ends) < 2 or max(ends) - min(ends) <= 0:  # noqa: PLR2004 - an axis needs two ends
        return None
    start, stop = min(ends), max(ends)
    # Open spans (training data) need room to the left of their end.
    if any(first <= 0 for _, first, _, _, _ in spans):
        start -= max(1, (stop - start) // 4)

    def at(ts: int) -> float:
        return round(100 * (max(ts, start) - start) / (stop - start), 2)

    drawn = tuple(
        Span(
            label=label,
            left=at(first),
            width=round(max(at(last) - at(first), 0.6), 2),
            tone=tone,
            detail=detail,
        )
        for label, first, last, tone, detail in spans
    )
    inner = [start + (stop - start) * k // 4 for k in range(1, 4)]
    form = day if stop - start >= 4 * DAY_NS else _clock
    ticks = tuple(Tick(at=at(t), label=form(t)) for t in (*inner, stop) if form(t))
    return TimeLine(spans=drawn, ticks=ticks)


def _clock(ts_ns: int) -> str:
    return moment(ts_ns)[5:16]
