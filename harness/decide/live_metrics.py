"""Where the values of a live guardrail come from: one of its keys, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.live import LiveKind, LiveMetric
from harness.core.policies import Loss
from harness.decide.document import Section

METRIC_KEYS = ("metric", "loss", "slower_than")

_PAIRED_ONLY = frozenset({LiveMetric.FLIP, LiveMetric.PARITY})
_SPLIT_ONLY = frozenset({LiveMetric.LOSS, LiveMetric.LATENCY})
"""A mirrored request is answered out of band, so its time is not what a client would wait."""
NEEDS_DECISION = frozenset({LiveMetric.SCORE, LiveMetric.RATE, LiveMetric.FLIP, LiveMetric.LOSS})
"""What is measured through the policy's `decision`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is measured, and the bounds that follow from it."""

    metric: LiveMetric
    bounds: tuple[float, float]
    loss: Loss | None = None
    slower_than_s: float | None = None


def read_source(section: Section, kind: LiveKind) -> Source:
    """Reads where a guardrail's values come from; `range` belongs to what has no bounds of its own.

    Args:
      section: the guardrail's keys.
      kind: paired or shift.

    Raises:
      PolicyError: a metric that this kind of traffic cannot give, or a key that has no meaning.
    """
    metric = section.maybe("metric", lambda key: section.choice(key, LiveMetric), LiveMetric.GIVEN)
    paired = kind is LiveKind.PAIRED
    if metric in (_SPLIT_ONLY if paired else _PAIRED_ONLY):
        what = f"'{metric.value}' is not measured on {'shadow' if paired else 'split'} traffic"
        raise section.error("metric", what, "Choose another metric, or leave the guardrail out.")
    slower_s = _only_of(section, "slower_than", metric, LiveMetric.LATENCY)
    loss = _only_of(section, "loss", metric, LiveMetric.LOSS)
    if metric is LiveMetric.LOSS:
        if not loss:
            raise section.error("loss", "is missing", "Write `loss: brier`.")
        if "label_maturity" not in section:
            raise section.error(
                "label_maturity", "is missing, and a loss needs labels", "Write `24h`."
            )
    elif metric is not LiveMetric.GIVEN and "label_maturity" in section:
        what = f"belongs to labels, and '{metric.value}' comes with the answer"
        raise section.error("label_maturity", what, "Leave it out.")
    return Source(
        metric=metric,
        bounds=_bounds(section, metric, paired=paired, bounded=not slower_s),
        loss=section.choice("loss", Loss) if loss else None,
        slower_than_s=section.seconds("slower_than") if slower_s else None,
    )


def _only_of(section: Section, key: str, metric: LiveMetric, owner: LiveMetric) -> bool:
    """Whether a key is given, which only one metric may have."""
    if key in section and metric is not owner:
        raise section.error(key, f"belongs to `metric: {owner.value}`", "Leave it out.")
    return key in section


def _bounds(
    section: Section, metric: LiveMetric, *, paired: bool, bounded: bool
) -> tuple[float, float]:
    if metric is LiveMetric.GIVEN or (metric is LiveMetric.LATENCY and bounded):
        return section.interval("range")
    if "range" in section:
        what = f"follows from `metric: {metric.value}`"
        raise section.error("range", what, "Leave it out.")
    return (-1.0, 1.0) if paired and metric not in _PAIRED_ONLY else (0.0, 1.0)
