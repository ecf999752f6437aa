"""Constants that give a bug its name: unit factors, offsets, periods."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A constant and what it usually means."""

    value: float
    """Candidate relative to baseline."""
    meaning: str
    """In words, for the reader."""


def _both(factor: float, *units: tuple[str, str]) -> tuple[Known, Known]:
    """A factor and its inverse; `units` are (large, small) ones that are so far apart."""
    return (
        Known(value=factor, meaning=", or ".join(f"{a} → {b}" for a, b in units)),
        Known(value=1.0 / factor, meaning=", or ".join(f"{b} → {a}" for a, b in units)),
    )


FACTORS: tuple[Known, ...] = (
    *_both(1.609344, ("miles", "kilometres")),
    *_both(1.852, ("nautical miles", "kilometres")),
    *_both(0.3048, ("feet", "metres")),
    *_both(2.54, ("inches", "centimetres")),
    *_both(25.4, ("inches", "millimetres")),
    *_both(0.45359237, ("pounds", "kilograms")),
    *_both(0.44704, ("miles per hour", "metres per second")),
    *_both(1.15077945, ("knots", "miles per hour")),
    *_both(0.51444444, ("knots", "metres per second")),
    *_both(33.8638867, ("inches of mercury", "hectopascals")),
    *_both(math.pi / 180.0, ("degrees", "radians")),
    *_both(60.0, ("minutes", "seconds"), ("hours", "minutes")),
    *_both(3600.0, ("hours", "seconds")),
    *_both(1440.0, ("days", "minutes")),
    *_both(86400.0, ("days", "seconds")),
    *_both(24.0, ("days", "hours")),
    *_both(100.0, ("fraction", "per cent")),
    *_both(1000.0, ("seconds", "milliseconds"), ("kilometres", "metres"), ("tonnes", "kilograms")),
    *_both(1e6, ("seconds", "microseconds"), ("millions", "ones")),
)

AFFINE: tuple[tuple[float, float, str], ...] = (
    (5.0 / 9.0, -160.0 / 9.0, "°F → °C"),
    (1.8, 32.0, "°C → °F"),
    (5.0 / 9.0, 459.67 * 5.0 / 9.0, "°F → K"),
    (1.8, -459.67, "K → °F"),
)
"""(slope, intercept, meaning)."""

OFFSETS: tuple[Known, ...] = (
    Known(value=273.15, meaning="°C → K"),
    Known(value=-273.15, meaning="K → °C"),
)

HOURS: dict[float, str] = {
    24.0: "local time ↔ UTC",
    1440.0: "local time ↔ UTC",
    86400.0: "local time ↔ UTC",
}
"""Periods of a day, in which two offsets an hour apart mean daylight saving time."""

PERIODS: dict[float, str] = {
    7.0: "another first day of the week, or the day in another time zone",
    12.0: "another first month, or hours of a 12-hour clock",
    24.0: "local time ↔ UTC",
    60.0: "minutes or seconds of another clock",
    360.0: "another zero direction",
    1440.0: "local time ↔ UTC",
    86400.0: "local time ↔ UTC",
}
"""Period → what a constant shift in it usually means."""

_NEAR = 5e-3


def known_factor(ratio: float) -> Known | None:
    """The known unit factor within half a per cent of a ratio, the closest one first."""
    near = [k for k in FACTORS if abs(ratio / k.value - 1.0) < _NEAR]
    return min(near, key=lambda k: abs(ratio / k.value - 1.0), default=None)


def known_offset(shift: float) -> str:
    """What a constant shift usually means; "" when nothing comes to mind."""
    for known in OFFSETS:
        if abs(shift - known.value) < _NEAR * abs(known.value):
            return known.meaning
    for unit_s, divisor in (("s", 3600.0), ("ms", 3.6e6), ("ns", 3.6e12)):
        hours = shift / divisor
        if hours == round(hours) and 1 <= abs(hours) <= 14:  # noqa: PLR2004 - time zones
            return f"{abs(hours):.0f} hours in {unit_s}: local time ↔ UTC"
    return ""
