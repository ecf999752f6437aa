"""Registry tags and model metadata that the gate writes and reads."""

from __future__ import annotations

from collections.abc import Mapping

from harness.core.clock import ts_ns_from_iso

DIGEST = "harness.sha256"
"""Content digest (`resolve.digest`) at registration; the bytes must still have it."""
TRAINING_CUTOFF = "harness.training_cutoff"
"""Last instant whose data the version was trained on, ISO 8601."""
NOTE = "harness.note"
"""Something about the pin that a reader of the evidence should know."""


def training_cutoff_ns(tags: Mapping[str, str], where: str) -> int | None:
    """The training cut-off that tags or metadata carry, if any.

    Raises:
      UsageError: it is no ISO 8601 time.
    """
    text = tags.get(TRAINING_CUTOFF)
    return None if text is None else ts_ns_from_iso(text, f"{where}, tag {TRAINING_CUTOFF}")
