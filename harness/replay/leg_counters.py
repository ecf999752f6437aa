"""How much trouble a leg may make, and how much it made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LegCaps:
    """How much trouble a leg may make before it ends."""

    max_restarts: int = 40
    """Processes started after the first."""
    max_fault_s: float = 60.0
    """Time spent on retries, searches and restarts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegCounters:
    """What happened on the way."""

    batches: int
    """Batches collected."""
    restarts: int
    """Processes started after the first."""
    retries: int
    """Batches tried a second time, unchanged, in a fresh process."""
    flaky: int
    """Of these: passed the second time. A model whose process dies now and then is a finding."""
    recomposed: int
    """Batches whose rest was run again without its poison requests: another batch composition."""
    assembled: int
    """Batches that failed only as a whole: their answers come from smaller groups."""
    trace_faults: int
    """Batches answered without the trace that was asked for."""
    fault_s: float
    """Time spent on all of this."""
    poison: tuple[str, ...]
    """Ids of requests that fail by themselves, the first 1,000."""
    poison_count: int
    """How many there are."""
