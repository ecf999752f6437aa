"""What `harness record` does, as a call: options from files, a recording, its totals in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.jsonable import jsonable
from harness.core.recording import RecordingTotals
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
        options = replace(options, rules=found.rules, key=found.key)
    return RecordedTraffic(out=str(options.out), totals=record(options, started))


def totals_text(totals: RecordingTotals) -> str:
    """Totals of one recorder in a few lines."""
    seen = f"saw {totals.seen:,} requests ({totals.failed:,} failed), wrote {totals.written:,}"
    lines = [f"recorder '{totals.writer}' {seen}"]
    if totals.sample < 1.0:
        lines.append(
            f"  sampled out: {totals.sampled_out:,} (a share of {totals.sample:g} is kept, and every "
            f"failure: {totals.kept_as_failed:,} besides the sample)"
        )
    lines += [f"  not recorded: {count:,}, {reason}" for reason, count in totals.not_recorded]
    lines += [f"  noticed: {count:,}, {fault}" for fault, count in totals.faults]
    if totals.waiting:
        lines.append(f"  not published yet: {totals.waiting:,}")
    if not totals.closed:
        lines.append("  it has not ended in order: these are the last counts that are known")
    return "\n".join(lines)
