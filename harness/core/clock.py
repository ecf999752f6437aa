"""Where wall-clock time enters, and how times are written."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from harness.core.errors import UsageError

_LAST_NS = 2**63 - 1
"""2262-04-11T23:47:16Z: times are 64-bit nanoseconds everywhere."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_S = 1e12
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def now_ns() -> int:
    """Nanoseconds since the epoch, UTC."""
    return time.time_ns()


def iso(ts_ns: int) -> str:
    """Writes nanoseconds since the epoch as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(ts_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ts_ns_from_iso(text: str, where: str) -> int:
    """Reads ISO 8601; a time without an offset is UTC.

    Raises:
      UsageError: the text is no ISO 8601 time, or lies outside 1970 to 2262.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            where, f"'{text}' is no ISO 8601 time", "Write it like 2013-11-01T00:00:00Z."
        ) from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    ts_ns = (at - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= ts_ns <= _LAST_NS:
        raise UsageError(
            where,
            f"'{text}' lies outside the years 1970 to 2262",
            "Write a time in between, like 2013-11-01T00:00:00Z.",
        )
    return ts_ns


def seconds_from_duration(text: str, where: str) -> float:
    """Reads 500ms, 5s, 10m, 24h or 61d as seconds.

    Raises:
      UsageError: the text is no duration.
    """
    found = _DURATION.match(text)
    if not found:
        raise UsageError(where, f"'{text}' is no duration", "Write it like 500ms, 5s, 24h or 61d.")
    value = float(found[1]) * _SECONDS[found[2]]
    if value > _LONGEST_S:
        raise UsageError(where, f"'{text}' is longer than anything lasts", "Give a shorter time.")
    return value
