"""A recorder's totals in words."""

from __future__ import annotations

from harness.core.recording import RecordingTotals


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
