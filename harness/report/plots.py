"""Drawings as values: bars, curves and time lines, their positions in percent."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.tones import Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """An interval against its margins; positions in percent of the bar's width."""

    left: float
    """Where the interval starts."""
    width: float
    """How wide it is."""
    zero: float
    """Where no change is."""
    margin_low: float | None
    """Where harm begins on the left; None = no harm on that side."""
    margin_high: float | None
    """Where harm begins on the right."""
    clipped_left: bool
    """The interval goes on beyond the left end."""
    clipped_right: bool
    """The interval goes on beyond the right end."""
    tone: Tone
    """The verdict's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    """Percent of the axis."""
    label: str
    """With the unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A labelled horizontal line."""

    at: float
    """Percent from the top."""
    label: str
    """What it marks."""
    above: bool
    """The label stands above the line, where the curve leaves room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """The part of a plot that means harm."""

    top: float
    """Percent from the top."""
    height: float
    """Percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A confidence sequence over the number of requests; coordinates in percent of the plot."""

    band: str
    """SVG points of the band between the ends."""
    lower: str
    """SVG points of the lower end."""
    upper: str
    """SVG points of the upper end."""
    margins: tuple[Level, ...]
    """Where harm begins."""
    harm: tuple[Zone, ...]
    """Beyond the margins."""
    zero: float | None
    """Where no change is, percent from the top; None when outside the plot."""
    last: tuple[float, float, float]
    """Final interval: x, y of the lower end, y of the upper end."""
    proven: float | None
    """x at which the verdict was proven; None when it was not."""
    proven_on_top: bool
    """The words about it stand at the top, where the margins leave room."""
    proven_label: str
    """By how many requests."""
    x_ticks: tuple[Tick, ...]
    """Requests."""
    y_ticks: tuple[Tick, ...]
    """In the metric's unit, percent from the top."""
    x_label: str
    """Unit of x and whether it is logarithmic."""
    text: str
    """The same in words, for readers who do not see the drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A labelled stretch of time."""

    label: str
    """What it is."""
    left: float
    """Percent of the time line."""
    width: float
    """Percent."""
    tone: Tone
    """Judged or not."""
    detail: str
    """Its dates in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLine:
    """Windows and training cut-offs on one axis."""

    spans: tuple[Span, ...]
    """Windows, and what each version was trained on."""
    ticks: tuple[Tick, ...]
    """Dates."""
