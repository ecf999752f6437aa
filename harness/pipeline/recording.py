"""What `harness record` does, as a call: options from files, a recording, its totals in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.jsonable import jsonable
from harness.core.recording import RecordingTotals
from harness.pipeline.recorders import totals_text
from harness.pipeline.redaction import read_redaction
from harness.record.session import RecordOptions, Started, record


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTraffic:
    """A recording that has ended."""

    out: str
    """Where the traffic lies."""
    totals: RecordingTotals
    """What became of every request, over all starts of this recorder."""

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(jsonable(self), indent=2)

    def to_text(self) -> str:
        """A few lines."""
        return f"{self.out}: {totals_text(self.totals)}"


def record_traffic(
    options: RecordOptions,
    *,
    redact: Path | None = None,
    started: Callable[[Started], None] = lambda _: None,
) -> RecordedTraffic:
    """Serves an upstream's clients and records what passes, until SIGTERM or Ctrl-C.

    Args:
      options: what to do.
      redact: a file of redaction rules; None = only what is never written is dropped.
      started: called once, when clients may come.

    Raises:
      UsageError: an address, a file, a folder or a rule cannot be used.
    """
    if redact is not None:
        found = read_redaction(redact)
        options = replace(options, rules=found.rules, key=found.key, details=found.details)
    return RecordedTraffic(out=str(options.out), totals=record(options, started))
