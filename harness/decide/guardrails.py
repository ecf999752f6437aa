"""One guardrail of a policy file."""

from __future__ import annotations

import re

from harness.core.policies import (
    METRIC_BOUNDS,
    Direction,
    Guardrail,
    Loss,
    Metric,
    Scope,
    WindowName,
)
from harness.decide.document import Section

_KEYS = (
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
)
_LATER_KEYS = {
    "column": "a guardrail over a table's column",
    "range": "a guardrail over a table's column",
    "unit": "testing means over a unit",
    "weight": "testing means over a unit",
    "anchor": "a margin against an earlier version",
}
_LATER_METRICS = {
    "excess_flips": "flips beyond the noise of both versions",
    "calibration_shift": "calibration in the baseline's score bins",
    "latency_ratio": "the latency ratio",
    "latency_p99": "the latency quantile",
    "live_rate": "the rate under split live traffic",
    "live_score": "the score under split live traffic",
    "live_errors": "error counts under split live traffic",
    "sample_ratio": "the sample-ratio check of split live traffic",
    "estimated_performance": "performance estimated without labels",
}
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")


def read_guardrail(section: Section) -> Guardrail:
    """Reads and checks one guardrail.

    Args:
      section: its keys.

    Raises:
      PolicyError: an unknown key or word, a margin outside the metric's range, or a combination
        that has no meaning.
    """
    section.only(_KEYS, _LATER_KEYS)
    name = section.text("name")
    if not _NAME.match(name):
        raise section.error("name", f"'{name}' is no name", "Use letters, digits, _ . and -.")
    metric = section.choice("metric", Metric, _LATER_METRICS)
    _check_belonging(section, metric)
    direction = _direction(section, metric)
    margin = _margin(section, "margin", metric)
    loss = metric is Metric.LOSS_DIFFERENCE
    return Guardrail(
        name=name,
        metric=metric,
        margin=margin,
        direction=direction,
        window=_window(section, loss=loss),
        gating=section.maybe("gating", section.flag, default=True),
        effect=_effect(section, metric, margin, direction) if "effect" in section else None,
        slice_by=section.maybe("slice_by", section.texts, ()),
        slice_margin=(
            _margin(section, "slice_margin", metric) if "slice_margin" in section else None
        ),
        min_slice=section.maybe("min_slice", lambda key: section.integer(key, least=1), 500),
        loss=section.choice("loss", Loss) if loss else None,
        scope=section.choice("scope", Scope) if metric is Metric.PARITY_MISMATCH else None,
        expected_changes=section.maybe("expected_changes", section.texts, ()),
    )


def _check_belonging(section: Section, metric: Metric) -> None:
    """Refuses keys that say nothing about this metric, rather than ignoring them."""
    belongs = {
        "loss": Metric.LOSS_DIFFERENCE,
        "scope": Metric.PARITY_MISMATCH,
        "expected_changes": Metric.PARITY_MISMATCH,
    }
    for key, owner in belongs.items():
        if key in section and metric is not owner:
            what = f"belongs to metric {owner.value}, not to {metric.value}"
            raise section.error(key, what, "Leave it out.")
    for key in ("slice_margin", "min_slice"):
        if key in section and "slice_by" not in section:
            raise section.error(key, "has no meaning without slice_by", "Add slice_by.")


def _direction(section: Section, metric: Metric) -> Direction:
    direction = section.maybe(
        "direction", lambda key: section.choice(key, Direction), Direction.INCREASE
    )
    if direction is not Direction.INCREASE and METRIC_BOUNDS[metric][0] >= 0.0:
        what = f"'{direction.value}' has no meaning: {metric.value} is never below 0"
        raise section.error("direction", what, "Leave it out: harm is an increase.")
    return direction


def _margin(section: Section, key: str, metric: Metric) -> float:
    value = section.number(key)
    most = METRIC_BOUNDS[metric][1]
    if not 0.0 < value < most:
        what = f"{value:g} is outside the range of {metric.value}"
        raise section.error(key, what, f"Choose a margin above 0 and below {most:g}.")
    return value


def _effect(section: Section, metric: Metric, margin: float, direction: Direction) -> float:
    value = section.number("effect")
    lo, hi = METRIC_BOUNDS[metric]
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


def _window(section: Section, *, loss: bool) -> WindowName:
    default = WindowName.MATURED if loss else WindowName.NEWEST
    window = section.maybe("window", lambda key: section.choice(key, WindowName), default)
    if loss and window is not WindowName.MATURED:
        raise section.error(
            "window",
            "a loss needs labels, and labels of the newest requests have not arrived",
            "Use `window: matured`.",
        )
    return window
