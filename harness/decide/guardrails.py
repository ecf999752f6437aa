"""One guardrail of a policy file."""

from __future__ import annotations

import math
import re

from harness.core.policies import (
    LATENCY_METRICS,
    METRIC_BOUNDS,
    Against,
    Direction,
    Guardrail,
    Loss,
    Metric,
    Scope,
    WindowName,
)
from harness.decide.document import Section

KEYS = (
    "name",
    "metric",
    "margin",
    "direction",
    "window",
    "gating",
    "effect",
    "slice_by",
    "slice_margin",
    "min_slice",
    "loss",
    "scope",
    "expected_changes",
    "against",
    "bins",
    "cutoff",
)
"""Of a guardrail."""
_LABELLED = (Metric.LOSS_DIFFERENCE, Metric.CALIBRATION_SHIFT)
_MOST_BINS = 50
_OF_THE_POLICY = ("unit", "weight", "claim")
LATER_METRICS = {
    "live_rate": "the rate under split live traffic",
    "live_score": "the score under split live traffic",
    "live_errors": "error counts under split live traffic",
    "sample_ratio": "the sample-ratio check of split live traffic",
    "estimated_performance": "performance estimated without labels",
}
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")


def refuse_policy_keys(section: Section) -> None:
    """Refuses keys that all guardrails share.

    Raises:
      PolicyError: names the key and its place.
    """
    for key in _OF_THE_POLICY:
        if key in section:
            what = "holds for the whole policy, not for one guardrail"
            raise section.error(key, what, f"Write `{key}:` beside `guardrails:`.")


def read_guardrail(section: Section) -> Guardrail:
    """Reads and checks one guardrail.

    Args:
      section: its keys.

    Raises:
      PolicyError: an unknown key or word, a margin outside the metric's range, or a combination
        that has no meaning.
    """
    if "column" in section or "range" in section:
        raise section.error(
            "column" if "column" in section else "range",
            "belongs to a table, and a gate has none",
            "Keep this guardrail in a policy for `harness judge`.",
        )
    refuse_policy_keys(section)
    section.only(KEYS)
    name = read_name(section)
    metric = section.choice("metric", Metric, LATER_METRICS)
    if metric in (Metric.COLUMN, Metric.RATIO):
        raise section.error("metric", f"'{metric.value}' needs a table", "Use `harness judge`.")
    check_belonging(section, metric)
    check_slice_keys(section, metric)
    if metric in LATENCY_METRICS:
        _refuse_for_latency(section)
    bounds = METRIC_BOUNDS[metric]
    direction = read_direction(section, metric, bounds)
    margin = read_margin(section, "margin", metric, bounds, direction)
    loss = metric is Metric.LOSS_DIFFERENCE
    return Guardrail(
        name=name,
        metric=metric,
        margin=margin,
        direction=direction,
        window=_window(section, labelled=metric in _LABELLED),
        gating=section.maybe("gating", section.flag, default=True),
        effect=read_effect(section, metric, bounds, margin, direction),
        slice_by=section.maybe("slice_by", section.texts, ()),
        slice_margin=read_slice_margin(section, metric, bounds, direction),
        min_slice=section.maybe("min_slice", lambda key: section.integer(key, least=1), 500),
        loss=section.choice("loss", Loss) if loss else None,
        scope=section.choice("scope", Scope) if metric is Metric.PARITY_MISMATCH else None,
        expected_changes=section.maybe("expected_changes", section.texts, ()),
        against=_against(section, metric),
        bins=read_bins(section),
        cutoff_s=read_cutoff(section),
    )


def _against(section: Section, metric: Metric) -> Against:
    against = section.maybe("against", lambda key: section.choice(key, Against), Against.BASELINE)
    if against is Against.ANCHOR and metric is Metric.PARITY_MISMATCH:
        raise section.error(
            "against",
            "'anchor' has no meaning for parity: releases are made to differ from it",
            "Compare scores, decisions or losses with the anchor.",
        )
    if against is Against.ANCHOR and metric in (Metric.EXCESS_FLIP, *LATENCY_METRICS):
        raise section.error(
            "against",
            f"'anchor' is not supported for {metric.value}: the anchor is replayed once",
            "Compare scores, decisions or losses with the anchor.",
        )
    return against


def check_belonging(section: Section, metric: Metric) -> None:
    """Refuses keys that say nothing about this metric, rather than ignoring them."""
    belongs = {
        "loss": Metric.LOSS_DIFFERENCE,
        "scope": Metric.PARITY_MISMATCH,
        "expected_changes": Metric.PARITY_MISMATCH,
        "bins": Metric.CALIBRATION_SHIFT,
        "cutoff": Metric.LATENCY_P99,
    }
    for key, owner in belongs.items():
        if key in section and metric is not owner:
            what = f"belongs to metric {owner.value}, not to {metric.value}"
            raise section.error(key, what, "Leave it out.")


def check_slice_keys(section: Section, metric: Metric) -> None:
    """Refuses keys about slices that nothing is sliced by, or that bins leave no room for."""
    for key in ("slice_margin", "min_slice"):
        if key in section and "slice_by" not in section:
            raise section.error(key, "has no meaning without slice_by", "Add slice_by.")
    if "slice_by" in section and metric is Metric.CALIBRATION_SHIFT:
        what = "is not supported for calibration_shift, whose parts are bins of the score"
        raise section.error("slice_by", what, "Leave it out, or slice a loss guardrail.")


def _refuse_for_latency(section: Section) -> None:
    """A sample replayed singly is too small for slices, and is always one of newest requests."""
    if "slice_by" in section:
        what = "is not supported for latency: the sample that is replayed singly is small"
        raise section.error("slice_by", what, "Leave it out.")
    if "window" in section and section.text("window") != WindowName.NEWEST.value:
        raise section.error("window", "latency is measured on newest requests", "Leave it out.")


def read_bins(section: Section) -> int:
    """How many bins of the baseline's score."""
    bins = section.maybe("bins", lambda key: section.integer(key, least=1), 10)
    if bins > _MOST_BINS:
        what = f"{bins} bins would hold too few requests each"
        raise section.error("bins", what, f"Use at most {_MOST_BINS}.")
    return bins


def read_cutoff(section: Section) -> float | None:
    """Seconds that count as slow; None when left to the planning part of the data."""
    return section.positive("cutoff") if "cutoff" in section else None


def read_name(section: Section) -> str:
    """A guardrail's name."""
    name = section.text("name")
    if not _NAME.match(name):
        raise section.error("name", f"'{name}' is no name", "Use letters, digits, _ . and -.")
    return name


def read_direction(section: Section, metric: Metric, bounds: tuple[float, float]) -> Direction:
    """Which side is harm; calibration can be off to either side, latency only grow."""
    default = Direction.BOTH if metric is Metric.CALIBRATION_SHIFT else Direction.INCREASE
    direction = section.maybe("direction", lambda key: section.choice(key, Direction), default)
    if direction is not Direction.INCREASE and (bounds[0] >= 0.0 or metric in LATENCY_METRICS):
        why = "is never below 0" if bounds[0] >= 0.0 else "is harm only where it grows"
        named = section.text("name") if metric is Metric.COLUMN else metric.value
        what = f"'{direction.value}' has no meaning: {named} {why}"
        raise section.error("direction", what, "Leave it out: harm is an increase.")
    if direction is Direction.BOTH and metric is Metric.RATIO:
        what = "'both' has no meaning: a ratio is held above or below one number"
        raise section.error("direction", what, "Write increase, or decrease.")
    return direction


def read_margin(
    section: Section,
    key: str,
    metric: Metric,
    bounds: tuple[float, float],
    direction: Direction,
) -> float:
    """A margin that a mean in the bounds can lie on either side of, in every harmful direction."""
    value = section.number(key)
    if metric in LATENCY_METRICS:
        # Both are a growth: of the typical time, or of the time that one in a hundred exceeds.
        most = math.expm1(METRIC_BOUNDS[Metric.LATENCY_RATIO][1])
        if not 0.0 < value < most:
            what = f"{value:g} is no tolerated growth (0.1 = ten per cent)"
            raise section.error(key, what, f"Choose a margin above 0 and below {most:.3g}.")
        return value
    most = {
        Direction.INCREASE: bounds[1],
        Direction.DECREASE: -bounds[0],
        Direction.BOTH: min(bounds[1], -bounds[0]),
    }[direction]
    least = {Direction.INCREASE: bounds[0], Direction.DECREASE: -bounds[1]}.get(direction, 0.0)
    if not max(0.0, least) < value < most:
        what = f"{value:g} is outside the range [{bounds[0]:g}, {bounds[1]:g}]"
        if max(0.0, least) >= most:
            raise section.error(key, what, "Widen the range, or change the direction.")
        if least > 0.0:
            remedy = f"Choose a margin above {least:g} and below {most:g}."
            raise section.error(key, what, remedy)
        raise section.error(key, what, f"Choose a margin above 0 and below {most:g}.")
    return value


def read_slice_margin(
    section: Section, metric: Metric, bounds: tuple[float, float], direction: Direction
) -> float | None:
    """The slices' own margin; None when they have the guardrail's."""
    if "slice_margin" not in section:
        return None
    return read_margin(section, "slice_margin", metric, bounds, direction)


def read_effect(
    section: Section,
    metric: Metric,
    bounds: tuple[float, float],
    margin: float,
    direction: Direction,
) -> float | None:
    """The mean that a harmless candidate is expected to have; None when none is declared.

    For latency_ratio a growth like the margin; for latency_p99 and ratio, which are tested against
    0, the mean of the tested values.
    """
    if "effect" not in section:
        return None
    value = section.number("effect")
    if metric is Metric.LATENCY_RATIO:
        bounds = (math.expm1(bounds[0]), margin)
    elif metric in (Metric.LATENCY_P99, Metric.RATIO):
        margin = 0.0
    lo, hi = bounds
    low, high = {
        Direction.INCREASE: (lo, margin),
        Direction.DECREASE: (-margin, hi),
        Direction.BOTH: (-margin, margin),
    }[direction]
    inside = low < value < high or (value == lo and direction is Direction.INCREASE)
    if not inside:
        what = f"{value:g} is not within the margin: it is the mean a harmless candidate has"
        raise section.error("effect", what, f"Choose a value between {low:g} and {high:g}.")
    return value


def _window(section: Section, *, labelled: bool) -> WindowName:
    default = WindowName.MATURED if labelled else WindowName.NEWEST
    window = section.maybe("window", lambda key: section.choice(key, WindowName), default)
    if window is WindowName.TABLE:
        raise section.error(
            "window", "'table' belongs to `harness judge`", "Use newest or matured."
        )
    if labelled and window is not WindowName.MATURED:
        raise section.error(
            "window",
            "a loss or a calibration needs labels, and labels of the newest requests have not arrived",
            "Use `window: matured`.",
        )
    return window
