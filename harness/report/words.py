"""Numbers, times and stable words → text for a reader. Units are part of the text.

Intervals are rounded outwards, so that a printed interval always contains the computed one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

DAY_NS = 86_400_000_000_000
_MINUS = "−"
NOT_MEASURED = "not measured"
_LARGEST_LOG = 700.0
_LARGEST_TS = 253_402_300_799_000_000_000
"""Last instant of the year 9999, beyond which no calendar goes."""

REASONS = {
    "all_guardrails_pass": "every gating guardrail is proven within its margin",
    "guardrail_failed": "harm beyond a margin is proven",
    "candidate_fails": "the candidate fails on requests that the baseline answers",
    "candidate_does_not_load": "the candidate does not load",
    "candidate_not_tried": "no process was ready for the candidate's model",
    "anchor_does_not_load": "the anchor does not load, so what the releases since it changed is unknown",
    "anchor_fails": "the anchor does not answer enough of the requests to be compared with",
    "anchor_not_reproduced": "the anchor does not reproduce its own golden rows",
    "baseline_not_reproduced": "the baseline does not reproduce its own golden rows",
    "candidate_not_reproduced": "the candidate does not reproduce its own golden rows",
    "baseline_does_not_load": "the baseline does not load, so there is nothing to compare with",
    "baseline_fails": "the baseline fails too many of the requests for the rest to stand for the traffic",
    "floor_above_margin": "the baseline differs from itself by more than a margin",
    "observer_effect": "reading features changed an answer, so those that were judged are not surely production's",
    "traffic_integrity": "too much of the recorded traffic could not be read, or asks for nothing",
    "labels_incomplete": "too few of the requests that should have a label have one",
    "features_not_compared": "a feature that the baseline declares was not compared",
    "output_shape_changed": "clients would get an output of another shape",
    "outputs_not_compared": "an output of the baseline was not compared",
    "empty_window": "a window that a guardrail needs is empty",
    "too_few_requests": "a window that a guardrail needs has too few requests",
    "not_enough_evidence": "neither harm nor harmlessness is proven with the traffic at hand",
    "slice_harm": "harm is proven in a slice too small for a claim of its own",
    "too_much_without_claim": "too much of the traffic is in slices too small for any claim",
    "leg_ended_early": "a version stopped answering before the traffic was through",
    "flaky_candidate": "the candidate's process failed now and then, and passed the second time",
    "candidate_fails_in_sample": "the candidate did not answer all that was asked before and beside the replay",
    "interrupted": "the run was interrupted",
    "no_data": "a gating guardrail measured nothing",
}
TIERS = {
    "S0": "resource limits only",
    "S1": "files or network restricted, system calls not",
    "S2": "system calls filtered",
    "S3": "system calls, files and network closed off",
}
WINDOWS = {
    "newest": "newest traffic",
    "matured": "traffic with matured labels",
    "table": "rows of the table",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is named, asked and written."""

    title: str
    """A few words."""
    question: str
    """What the mean is a mean of."""
    unit: str
    """ "%", "pp" or ""."""
    signed: bool
    """Whether it can be negative."""
    logarithm: bool = False
    """Whether values are logs of a ratio, shown as a growth in percent."""


METRICS = {
    "parity_mismatch": Metric(
        "Values that differ",
        "Share of requests with a compared value that differs beyond the noise floor.",
        "%",
        signed=False,
    ),
    "failure": Metric(
        "Failed requests",
        "Share of requests that the candidate fails, minus the baseline's share.",
        "pp",
        signed=True,
    ),
    "nan_rate": Metric(
        "NaN answers",
        "Share of requests answered with NaN by the candidate, minus the baseline's share.",
        "pp",
        signed=True,
    ),
    "live_nan_rate": Metric(
        "Answers without a usable value",
        "Share of requests that the candidate answers with NaN, or with a score outside of 0 and 1 that a "
        "guardrail reads, minus the baseline's share.",
        "pp",
        signed=True,
    ),
    "decision_flip": Metric(
        "Changed decisions", "Share of requests whose decision changes.", "%", signed=False
    ),
    "decision_rate_shift": Metric(
        "Decision rate",
        "Share of positive decisions by the candidate, minus the baseline's share.",
        "pp",
        signed=True,
    ),
    "score_shift": Metric(
        "Score",
        "Mean of the candidate's score minus the baseline's, on a scale from 0 to 1.",
        "",
        signed=True,
    ),
    "loss_difference": Metric(
        "Loss on labelled requests",
        "Mean of the candidate's loss minus the baseline's; above zero the candidate is worse.",
        "",
        signed=True,
    ),
    "excess_flip": Metric(
        "Flips beyond noise",
        "Share of requests whose decision changes, less half of how often each version changes its "
        "own when asked again.",
        "pp",
        signed=True,
    ),
    "calibration_shift": Metric(
        "Calibration",
        "Outcome minus the candidate's score, in each bin of the baseline's score; the worst bin "
        "decides.",
        "",
        signed=True,
    ),
    "live_shift": Metric(
        "Difference between the arms",
        "Mean of the candidate's arm minus the baseline's.",
        "",
        signed=True,
    ),
    "live_paired": Metric(
        "Difference", "Mean of the candidate's value minus the baseline's.", "", signed=True
    ),
    "live_errors": Metric(
        "Ratio of errors",
        "Candidate's rate of units with errors over the baseline's; 1 is no change.",
        "",
        signed=False,
    ),
    "latency": Metric(
        "Latency",
        "Mean of the candidate's arm minus the baseline's, of the seconds, or of what is slower than "
        "the policy says.",
        "",
        signed=True,
    ),
    "latency_ratio": Metric(
        "Typical latency",
        "Growth of the time of one request from baseline to candidate, on a logarithmic mean; "
        "measured singly on this machine, which is not the serving machine.",
        "%",
        signed=True,
        logarithm=True,
    ),
    "latency_p99": Metric(
        "Slow requests",
        "Share of the candidate's requests slower than a cut-off fixed before, less that of a "
        "baseline slowed by the tolerated growth; measured singly on this machine.",
        "pp",
        signed=True,
    ),
    "ratio": Metric(
        "Ratio of sums",
        "Mean of the numerator less the tolerated ratio times the denominator; above zero exactly "
        "where the ratio of the sums is too high.",
        "",
        signed=True,
    ),
    "column": Metric(
        "Column of the table",
        "Mean of the column's values, each cut to the declared range.",
        "",
        signed=True,
    ),
}


def metric_from_word(word: str) -> Metric:
    """The metric's words; an unknown one is shown under its own name, as a plain number."""
    title = word.replace("_", " ").capitalize() or "Unnamed metric"
    return METRICS.get(word) or Metric(title, "Mean over requests.", "", signed=True)


def plain_word(word: str) -> str:
    """A stable word as a phrase: not_enough_evidence → not enough evidence."""
    return word.replace("_", " ")


def count(value: float | None) -> str:
    """A count: 12,345."""
    if value is None:
        return "unknown"
    return f"{round(value):,}" if math.isfinite(value) else "unbounded"


def counted(value: float | None, noun: str, plural: str = "") -> str:
    """A count with its noun: 1 request, 2 requests."""
    return f"{count(value)} {noun if value == 1 else plural or noun + 's'}"


def share(part: float | None, whole: float | None) -> str:
    """A share of a whole in percent; "" when there is no whole."""
    if part is None or not whole or not math.isfinite(part / whole):
        return ""
    return percent(part / whole)


def percent(value: float | None) -> str:
    """A share in percent: 0.0312 → 3.12 %; a share that is not quite 0 or 1 never reads as it."""
    if value is None or not math.isfinite(value):
        return "unknown"
    shown = 100 * value
    if 0 < abs(shown) < 0.01:  # noqa: PLR2004 - what two decimals can show
        return f"{'< ' if shown > 0 else '> −'}0.01 %"
    if 99.99 < shown < 100:  # noqa: PLR2004
        return "> 99.99 %"
    return f"{shown:.2f}".rstrip("0").rstrip(".").replace("-", _MINUS) + " %"


def rate(value: float | None) -> str:
    """A share in percent with two decimals, for columns and pairs that are read side by side."""
    if value is None or not math.isfinite(value) or 0 < value < 1e-4:  # noqa: PLR2004
        return percent(value)
    return f"{100 * value:.2f} %".replace("-", _MINUS)


def score(value: float | None) -> str:
    """A score; those around 0 to 1 with three decimals."""
    if value is None or not abs(value) < 10:  # noqa: PLR2004
        return number(value, 5)
    return f"{value:.3f}".replace("-", _MINUS)


def number(value: float | None, digits: int = 3) -> str:
    """A number with that many significant digits and a true minus sign."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", _MINUS)


def signed(value: float | None, decimals: int = 3) -> str:
    """A difference with its sign: +0.012, −0.300, 0.000."""
    if value is None or not math.isfinite(value):
        return number(value)
    text = f"{value:+.{decimals}f}"
    if float(text) == 0:
        text = text[1:]
    return text.replace("-", _MINUS)


def milliseconds(value: float | None) -> str:
    """A time in milliseconds."""
    return NOT_MEASURED if value is None else f"{number(value)} ms"


def _scaled(metric: Metric, value: float) -> float:
    """A value in the unit that it is shown in."""
    if metric.logarithm:
        return 100.0 * math.expm1(min(value, _LARGEST_LOG))
    return 100.0 * value if metric.unit else value


def _with_unit(text: str, metric: Metric) -> str:
    return f"{text} {metric.unit}" if metric.unit else text


def _outward(value: float, decimals: int, *, up: bool, metric: Metric) -> str:
    if not math.isfinite(value):
        return number(value)
    scale = 10.0**decimals
    # One part in a billion forgives the binary form of decimals like 0.3.
    slack = 1e-9 * max(1.0, abs(value) * scale)
    if abs(value) * scale > 1e15:  # noqa: PLR2004 - beyond exact integers
        return number(value)
    rounded = math.ceil(value * scale - slack) if up else math.floor(value * scale + slack)
    text = f"{rounded / scale:{'+' if metric.signed else ''}.{decimals}f}"
    if rounded == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS)


def interval(metric: Metric, lower: float | None, upper: float | None, margin: float | None) -> str:
    """An interval in the metric's unit, rounded outwards to a few digits of the margin."""
    if lower is None or upper is None:
        return NOT_MEASURED
    low, high = _scaled(metric, lower), _scaled(metric, upper)
    width = (high - low) / 2 if math.isfinite(high - low) else 0.0
    coarse = max(_scaled(metric, margin or 0.0), width)
    finest = 2 - math.floor(math.log10(coarse)) if 0 < coarse < math.inf else 3
    decimals = min(max(finest, 1), 8)
    ends = (
        _outward(low, decimals, up=False, metric=metric),
        _outward(high, decimals, up=True, metric=metric),
    )
    return _with_unit(" … ".join(ends), metric)


def value_in_unit(metric: Metric, value: float) -> str:
    """One value of the metric with its unit, for an axis."""
    text = number(_scaled(metric, value), 4)
    return _with_unit(f"+{text}" if metric.signed and value > 0 else text, metric)


def tolerated(metric: Metric, margin: float | None, direction: str) -> str:
    """What the policy tolerates: at most +0.002, within ±10 pp."""
    if margin is None:
        return "no margin recorded"
    text = _with_unit(number(_scaled(metric, margin), 6), metric)
    if not margin:
        return f"at {'least' if direction == 'decrease' else 'most'} {text}"
    match direction:
        case "both":
            return f"within ±{text}"
        case "decrease":
            return f"at least −{text}"
        case _:
            return f"at most {'+' if metric.signed else ''}{text}"


def statement(metric: Metric, ends: str, limit: str) -> str:
    """An interval and its limit in one phrase."""
    found = ends if ends == NOT_MEASURED else f"found {ends}"
    return f"{metric.title[:1].lower()}{metric.title[1:]}: {found}, tolerated {limit}"


def between(ends: str) -> str:
    """An interval as part of a sentence: between +0.1 and +0.4 pp."""
    return f"between {ends.replace(' … ', ' and ')}"


def e_value(value: float | None) -> str:
    """An e-value, readable at any size."""
    if value is None:
        return NOT_MEASURED
    if value >= 1e6:  # noqa: PLR2004 - beyond this only the order of magnitude matters
        return "more than 1,000,000"
    return count(value) if value >= 100 else number(value)  # noqa: PLR2004


def day(ts_ns: int | None) -> str:
    """A date in UTC; "" for no date."""
    return moment(ts_ns)[:10]


def moment(ts_ns: int | None) -> str:
    """A time in UTC to the minute; "" for none or beyond any calendar."""
    if ts_ns is None or not 0 < ts_ns < _LARGEST_TS:
        return ""
    return datetime.fromtimestamp(ts_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def period(first_ts_ns: int | None, last_ts_ns: int | None) -> str:
    """A stretch of time: 2013-09-01 … 2013-10-31 (61 days); "" when an end is missing."""
    first, last = day(first_ts_ns), day(last_ts_ns)
    if not (first and last) or first_ts_ns is None or last_ts_ns is None:
        return ""
    return f"{first} … {last} ({duration(last_ts_ns - first_ts_ns)})"


def duration(length_ns: int) -> str:
    """How long: 61 days, 5.2 hours, 3 minutes."""
    for unit_ns, noun in ((DAY_NS, "day"), (DAY_NS // 24, "hour"), (DAY_NS // 1440, "minute")):
        if length_ns >= unit_ns:
            amount = length_ns / unit_ns
            text = f"{amount:,.0f}" if amount >= 10 else f"{amount:.1f}".removesuffix(".0")  # noqa: PLR2004
            return f"{text} {noun}" + ("" if text == "1" else "s")
    return "under a minute"


def short_digest(digest: str) -> str:
    """The first twelve digits of a digest."""
    return f"{digest[:12]}…" if len(digest) > 16 else digest  # noqa: PLR2004


def listed(words: tuple[str, ...], most: int = 8) -> str:
    """Words in a row, the rest counted: a, b, c and 4 more."""
    if len(words) <= most:
        return ", ".join(words)
    return f"{', '.join(words[:most])} and {len(words) - most} more"
