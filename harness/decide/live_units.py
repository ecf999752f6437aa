"""What counts once on running traffic: a unit that requests name, a time block, or each request."""

from __future__ import annotations

import re

from harness.core.clock import seconds_from_duration
from harness.core.errors import UsageError
from harness.core.live import SHORTEST_BLOCK_S
from harness.decide.document import Section

_EACH_REQUEST = "request"
_LIKE_A_BLOCK = re.compile(
    r"^[\d.,]+\s*(ms|millis\w*|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?)$"
)
"""What people write for a duration, most of it not as a policy reads it."""


def read_unit(section: Section, *, shadow: bool) -> tuple[str, float]:
    """Reads `unit`.

    Neighbouring requests resemble each other. Where both versions answer every request, no coin is
    flipped for each of them, and a test that counts requests is wrong in most runs; so shadow traffic
    has to say what counts once.

    Args:
      section: the live section.
      shadow: no steps: both versions answer.

    Returns:
      (request field, "" = none; length of a time block in seconds, 0 = none).

    Raises:
      PolicyError: shadow traffic without a unit, or a block where units are split or have a
        maturity of their own.
    """
    if "unit" not in section:
        if shadow:
            what = (
                "is missing: requests one after another resemble each other, and each would count"
            )
            remedy = (
                "Write a time block well beyond what makes neighbours alike (`unit: 10m`), the field "
                "of a user or a session, or `unit: request` if requests are independent."
            )
            raise section.error("unit", what, remedy)
        return "", 0.0
    unit = section.text("unit")
    if unit == _EACH_REQUEST:
        return "", 0.0
    block_s = _block_s(unit)
    if block_s is None:
        _check_name(section, unit)
        return unit, 0.0
    _check_block(section, unit, block_s, shadow=shadow)
    return "", block_s


def _check_block(section: Section, unit: str, block_s: float, *, shadow: bool) -> None:
    if not shadow:
        what = f"'{unit}' is a time block, and steps split traffic by what requests name"
        raise section.error("unit", what, "Name the field of a user or a session.")
    if block_s < SHORTEST_BLOCK_S:
        raise section.error("unit", f"a block of {unit} has no length", "Write `unit: 10m`.")
    if "maturity" in section:
        what = f"has no meaning beside blocks of {unit}"
        remedy = "Leave it out: a block closes when its time is over."
        raise section.error("maturity", what, remedy)


def _check_name(section: Section, unit: str) -> None:
    """Refuses what was hardly meant as a field: a block or `request`, written otherwise."""
    bare = unit.strip().lower()
    if _LIKE_A_BLOCK.match(bare):
        what = f"'{unit}' reads like a time block and is none"
        raise section.error("unit", what, "Write a block like 500ms, 5s, 10m, 1h or 1d.")
    if bare.rstrip("s") == _EACH_REQUEST:
        what = f"'{unit}' reads like `request`, and would be the name of a field"
        raise section.error("unit", what, "Write `unit: request` if requests are independent.")


def _block_s(unit: str) -> float | None:
    """Length of a time block; None where `unit` is a name."""
    try:
        return seconds_from_duration(unit, "unit")
    except UsageError:
        return None
