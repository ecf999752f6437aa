"""One guardrail of a policy for a table."""

from __future__ import annotations

import dataclasses

from harness.core.policies import (
    METRIC_BOUNDS,
    TABLE_COLUMNS,
    Direction,
    Guardrail,
    Metric,
    WindowName,
)
from harness.decide.document import Section
from harness.decide.guardrails import (
    LATER_METRICS,
    check_belonging,
    check_slice_keys,
    read_bins,
    read_cutoff,
    read_direction,
    read_effect,
    read_margin,
    read_name,
    read_slice_margin,
    refuse_policy_keys,
)

_KEYS = (
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
    "bins",
    "cutoff",
    "ratio",
    "denominator_range",
    *dict.fromkeys(key for keys in TABLE_COLUMNS.values() for key in keys),
)
_OF_A_RATIO = ("ratio", "denominator_range")


_SLICES_OF_ARMS = (
    "is not tested where each row is one arm's",
    "Judge the rows of each slice as a table of their own.",
)
_NOT_OF_ARMS = {
    "slice_by": _SLICES_OF_ARMS,
    "slice_margin": _SLICES_OF_ARMS,
    "min_slice": _SLICES_OF_ARMS,
    "metric": (
        "compares both versions' answers, and each row is one arm's",
        "Name the outcome: `column:` with its `range:`.",
    ),
}


def read_table_guardrail(section: Section) -> Guardrail:
    """Reads and checks one guardrail over one or several columns of a table.

    Its values lie in the mathematical bounds of a `metric`, or are clipped to a declared `range`;
    those of a ratio to the ranges of both columns.

    Args:
      section: its keys.

    Raises:
      PolicyError: an unknown key or word, both or neither of metric and range, a column that is not
        named, or a margin that the range makes true or false for every table.
    """
    refuse_policy_keys(section)
    section.only(_KEYS)
    name = read_name(section)
    metric = section.choice("metric", Metric, LATER_METRICS) if "metric" in section else None
    if metric is Metric.RATIO:
        return _ratio(section, name)
    if (metric is not None) == ("range" in section):
        what = "has both a metric and a range" if metric else "has no range"
        raise section.error(
            "range", what, "Write `range: [lo, hi]`, or a metric, whose bounds are known."
        )
    declared = section.interval("range") if metric is None else None
    metric = metric or Metric.COLUMN
    columns = _columns(section, metric)
    check_belonging(section, metric)
    bounds = declared if declared is not None else METRIC_BOUNDS[metric]
    direction = read_direction(section, metric, bounds)
    margin = read_margin(section, "margin", metric, bounds, direction)
    return _guardrail(
        section, name, metric=metric, bounds=bounds, direction=direction, margin=margin,
        columns=columns, declared=declared,
    )  # fmt: skip


def _ratio(section: Section, name: str) -> Guardrail:
    """A ratio of sums, ΣY/ΣW, tested as the mean of Y − r·W."""
    columns = _columns(section, Metric.RATIO)
    if "margin" in section:
        what = "belongs to a mean, and the limit of a ratio is `ratio` itself"
        raise section.error("margin", what, "Leave it out.")
    ratio = section.number("ratio") if "ratio" in section else -1.0
    if ratio < 0.0:
        raise section.error("ratio", "needs a number of at least 0", "Write `ratio: 1.2`.")
    if "range" not in section:
        what = "is missing: it says between which values the numerator lies"
        raise section.error("range", what, "Write `range: [lo, hi]`.")
    top = section.interval("range")
    bottom = section.interval("denominator_range") if "denominator_range" in section else top
    if bottom[0] < 0.0:
        key = "denominator_range" if "denominator_range" in section else "range"
        what = f"lets a denominator be {bottom[0]:g}, and a ratio's counts something"
        raise section.error(key, what, "Give `denominator_range: [lo, hi]` with lo of at least 0.")
    bounds = (top[0] - ratio * bottom[1], top[1] - ratio * bottom[0])
    direction = read_direction(section, Metric.RATIO, bounds)
    if not bounds[0] < 0.0 < bounds[1]:
        what = f"{ratio:g} is kept, or broken, by every table within these ranges"
        raise section.error("ratio", what, "Correct the ranges or the ratio.")
    found = _guardrail(
        section, name, metric=Metric.RATIO, bounds=bounds, direction=direction, margin=0.0,
        columns=columns, declared=top,
    )  # fmt: skip
    return dataclasses.replace(found, denominator_range=bottom, ratio=ratio)


def _guardrail(
    section: Section,
    name: str,
    *,
    metric: Metric,
    bounds: tuple[float, float],
    direction: Direction,
    margin: float,
    columns: tuple[str, ...],
    declared: tuple[float, float] | None,
) -> Guardrail:
    """What every guardrail of a table has."""
    check_slice_keys(section, metric)
    return Guardrail(
        name=name,
        metric=metric,
        margin=margin,
        direction=direction,
        window=WindowName.TABLE,
        gating=section.maybe("gating", section.flag, default=True),
        effect=read_effect(section, metric, bounds, margin, direction),
        slice_by=section.maybe("slice_by", section.texts, ()),
        slice_margin=read_slice_margin(section, metric, bounds, direction),
        min_slice=section.maybe("min_slice", lambda key: section.integer(key, least=1), 500),
        column=" and ".join(columns) if columns else section.maybe("column", section.text, name),
        columns=columns,
        range=declared,
        bins=read_bins(section),
        cutoff_s=read_cutoff(section),
    )


def _columns(section: Section, metric: Metric) -> tuple[str, ...]:
    """The columns that a metric is made from; none for a metric that is a column already."""
    keys = TABLE_COLUMNS.get(metric, ())
    every = dict.fromkeys(key for found in TABLE_COLUMNS.values() for key in found)
    for key in (*every, *_OF_A_RATIO):
        owned = key in keys or (metric is Metric.RATIO and key in _OF_A_RATIO)
        if key in section and not owned:
            raise section.error(key, f"has no meaning for {metric.value}", "Leave it out.")
    if not keys:
        return ()
    if "column" in section:
        what = f"is one column, and {metric.value} is made from {len(keys)}"
        raise section.error("column", what, f"Name them under {', '.join(keys)}.")
    found = tuple(section.text(key) for key in keys)
    if len(set(found)) < len(found):
        raise section.error(keys[-1], "names a column that is named before", "Name each once.")
    return found


def read_unpaired_guardrail(section: Section) -> Guardrail:
    """Reads and checks one guardrail over outcomes of two arms: a difference of their means.

    Args:
      section: its keys.

    Raises:
      PolicyError: an unknown key or word, no range, or a margin that no difference can reach.
    """
    refuse_policy_keys(section)
    for key, (what, remedy) in _NOT_OF_ARMS.items():
        if key in section:
            raise section.error(key, what, remedy)
    section.only(("name", "column", "range", "margin", "direction", "gating", "effect"))
    name = read_name(section)
    if "range" not in section:
        what = "is missing: it says between which values one outcome lies"
        raise section.error("range", what, "Write `range: [lo, hi]`.")
    lo, hi = section.interval("range")
    differences = (lo - hi, hi - lo)
    direction = read_direction(section, Metric.COLUMN, differences)
    margin = read_margin(section, "margin", Metric.COLUMN, differences, direction)
    return Guardrail(
        name=name,
        metric=Metric.COLUMN,
        margin=margin,
        direction=direction,
        window=WindowName.TABLE,
        gating=section.maybe("gating", section.flag, default=True),
        effect=read_effect(section, Metric.COLUMN, differences, margin, direction),
        column=section.maybe("column", section.text, name),
        range=(lo, hi),
    )
