"""One guardrail of a policy file."""

from __future__ import annotations

import re

from harness.core.policies import (
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

_TABLE_KEYS = (
    "name",
    "column",
    "range",
    "metric",
    "margin",
    "direction",
    "gating",
    "effect",
    "slice_by",
    "slice_margin",
    "min_slice",
)
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
    "against",
)
_LATER_KEYS = {
    "unit": "testing means over a unit",
    "weight": "testing means over a unit",
}
_LATER_METRICS = {
    "excess_flip": "flips beyond the noise of both versions",
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
    if "column" in section or "range" in section:
        raise section.error(
            "column" if "column" in section else "range",
            "belongs to a table, and a gate has none",
            "Keep this guardrail in a policy for `harness judge`.",
        )
    section.only(_KEYS, _LATER_KEYS)
    name = _read_name(section)
    metric = section.choice("metric", Metric, _LATER_METRICS)
    if metric is Metric.COLUMN:
        raise section.error("metric", "'column' needs a table", "Use `harness judge`.")
    _check_belonging(section, metric)
    bounds = METRIC_BOUNDS[metric]
    direction = _direction(section, metric.value, bounds)
    margin = _margin(section, "margin", bounds, direction)
    loss = metric is Metric.LOSS_DIFFERENCE
    return Guardrail(
        name=name,
        metric=metric,
        margin=margin,
        direction=direction,
        window=_window(section, loss=loss),
        gating=section.maybe("gating", section.flag, default=True),
        effect=_effect(section, bounds, margin, direction) if "effect" in section else None,
        slice_by=section.maybe("slice_by", section.texts, ()),
        slice_margin=(
            _margin(section, "slice_margin", bounds, direction)
            if "slice_margin" in section
            else None
        ),
        min_slice=section.maybe("min_slice", lambda key: section.integer(key, least=1), 500),
        loss=section.choice("loss", Loss) if loss else None,
        scope=section.choice("scope", Scope) if metric is Metric.PARITY_MISMATCH else None,
        expected_changes=section.maybe("expected_changes", section.texts, ()),
        against=_against(section, metric),
    )


def _against(section: Section, metric: Metric) -> Against:
    against = section.maybe("against", lambda key: section.choice(key, Against), Against.BASELINE)
    if against is Against.ANCHOR and metric is Metric.PARITY_MISMATCH:
        raise section.error(
            "against",
            "'anchor' has no meaning for parity: releases are made to differ from it",
            "Compare scores, decisions or losses with the anchor.",
        )
    return against


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
    _check_slice_keys(section)


def _check_slice_keys(section: Section) -> None:
    for key in ("slice_margin", "min_slice"):
        if key in section and "slice_by" not in section:
            raise section.error(key, "has no meaning without slice_by", "Add slice_by.")


def read_table_guardrail(section: Section) -> Guardrail:
    """Reads and checks one guardrail over a column of a table.

    Its values lie in the mathematical bounds of a `metric`, or are clipped to a declared `range`.

    Args:
      section: its keys.

    Raises:
      PolicyError: an unknown key or word, both or neither of metric and range, or a margin that
        the range makes true or false for every table.
    """
    section.only(_TABLE_KEYS, _LATER_KEYS)
    name = _read_name(section)
    if ("metric" in section) == ("range" in section):
        what = "has both a metric and a range" if "metric" in section else "has no range"
        raise section.error(
            "range", what, "Write `range: [lo, hi]`, or a metric, whose bounds are known."
        )
    metric, declared = Metric.COLUMN, None
    if "range" in section:
        declared = section.interval("range")
    else:
        metric = section.choice("metric", Metric, _LATER_METRICS)
    _check_slice_keys(section)
    bounds = declared if declared is not None else METRIC_BOUNDS[metric]
    direction = _direction(section, metric.value, bounds)
    margin = _margin(section, "margin", bounds, direction)
    return Guardrail(
        name=name,
        metric=metric,
        margin=margin,
        direction=direction,
        window=WindowName.TABLE,
        gating=section.maybe("gating", section.flag, default=True),
        effect=_effect(section, bounds, margin, direction) if "effect" in section else None,
        slice_by=section.maybe("slice_by", section.texts, ()),
        slice_margin=(
            _margin(section, "slice_margin", bounds, direction)
            if "slice_margin" in section
            else None
        ),
        min_slice=section.maybe("min_slice", lambda key: section.integer(key, least=1), 500),
        column=section.maybe("column", section.text, name),
        range=declared,
    )


def read_unpaired_guardrail(section: Section) -> Guardrail:
    """Reads and checks one guardrail over outcomes of two arms: a difference of their means.

    Args:
      section: its keys.

    Raises:
      PolicyError: an unknown key or word, no range, or a margin that no difference can reach.
    """
    section.only(
        ("name", "column", "range", "margin", "direction", "gating", "effect"), _LATER_KEYS
    )
    name = _read_name(section)
    if "range" not in section:
        what = "is missing: it says between which values one outcome lies"
        raise section.error("range", what, "Write `range: [lo, hi]`.")
    lo, hi = section.interval("range")
    differences = (lo - hi, hi - lo)
    direction = _direction(section, name, differences)
    margin = _margin(section, "margin", differences, direction)
    return Guardrail(
        name=name,
        metric=Metric.COLUMN,
        margin=margin,
        direction=direction,
        window=WindowName.TABLE,
        gating=section.maybe("gating", section.flag, default=True),
        effect=_effect(section, differences, margin, direction) if "effect" in section else None,
        column=section.maybe("column", section.text, name),
        range=(lo, hi),
    )


def _read_name(section: Section) -> str:
    name = section.text("name")
    if not _NAME.match(name):
        raise section.error("name", f"'{name}' is no name", "Use letters, digits, _ . and -.")
    return name


def _direction(section: Section, what_is: str, bounds: tuple[float, float]) -> Direction:
    direction = section.maybe(
        "direction", lambda key: section.choice(key, Direction), Direction.INCREASE
    )
    if direction is not Direction.INCREASE and bounds[0] >= 0.0:
        what = f"'{direction.value}' has no meaning: {what_is} is never below 0"
        raise section.error("direction", what, "Leave it out: harm is an increase.")
    return direction


def _margin(section: Section, key: str, bounds: tuple[float, float], direction: Direction) -> float:
    """A margin that a mean in the bounds can lie on either side of, in every harmful direction."""
    value = section.number(key)
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


def _effect(
    section: Section, bounds: tuple[float, float], margin: float, direction: Direction
) -> float:
    value = section.number("effect")
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


def _window(section: Section, *, loss: bool) -> WindowName:
    default = WindowName.MATURED if loss else WindowName.NEWEST
    window = section.maybe("window", lambda key: section.choice(key, WindowName), default)
    if window is WindowName.TABLE:
        raise section.error(
            "window", "'table' belongs to `harness judge`", "Use newest or matured."
        )
    if loss and window is not WindowName.MATURED:
        raise section.error(
            "window",
            "a loss needs labels, and labels of the newest requests have not arrived",
            "Use `window: matured`.",
        )
    return window
