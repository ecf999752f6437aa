"""How much trouble a leg may make, and how much it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from harness.core.observations import Cause
from harness.core.quarantine import Quarantined

MAX_LISTED = 1000
MAX_KEPT = 20
"""Requests whose inputs are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegCaps:
    """How much trouble a leg may make before it ends."""

    max_restarts: int = 200
    """Processes started after the first, but for those that known requests cost once more."""
    max_fault_s: float = 60.0
    """Time spent on retries, searches and restarts."""
    max_quarantined: int = 25
    """Requests that by themselves cost a process; those that only raise an error are no burden."""
    max_hangs: int = 3
    """Requests in a row that hang by themselves while nothing in between is answered."""


USUAL = LegCaps()
DECISIVE = LegCaps(max_quarantined=5)
"""Where one failure decides, a handful shows its kind: each more costs a process and changes nothing."""


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
    refilled: int
    """Batches run again with their poison requests' rows replaced: the same batch composition."""
    assembled: int
    """Batches that failed only as a whole: their answers come from smaller groups."""
    trace_faults: int
    """Batches answered without the trace that was asked for."""
    trace_fault: str
    """What the version said of the first of them that it answers without a trace alone; "" = of none."""
    smaller: int
    """Batches that ran in parts, as the whole needed more memory than a leg has."""
    most_rows: int
    """In a part of such a batch; 0 = there was none."""
    memory_limit: int
    """Requests that by themselves need more memory than a leg has."""
    host_starved: int
    """Tries that ended because the host gave the process no processor; they say nothing about it."""
    fault_s: float
    """Time spent on all of this."""
    poison: tuple[str, ...]
    """Ids of requests that fail by themselves, the first 1,000."""
    poison_count: int
    """How many there are."""
    undeclared: tuple[tuple[str, str], ...]
    """(output, how the shape that it came in contradicts the signature), the first MAX_KEPT."""


@dataclass(slots=True)
class Tally:
    """The counters while they grow; see `LegCounters`."""

    batches: int = 0
    restarts: int = 0
    retries: int = 0
    flaky: int = 0
    refilled: int = 0
    assembled: int = 0
    trace_faults: int = 0
    trace_fault: str = ""
    smaller: int = 0
    most_rows: int = 0
    memory_limit: int = 0
    host_starved: int = 0
    fault_s: float = 0.0
    poison: list[str] = field(default_factory=list)
    poison_count: int = 0
    undeclared: dict[str, str] = field(default_factory=dict)
    asked_once_more: int = 0
    """Of the restarts: after a request that was known to cost a process had cost one again."""
    costly: int = 0
    """Requests that by themselves cost a process."""
    costly_alike: int = 0
    """Further ones, which cost the other version one, too."""
    hangs: int = 0
    """Requests in a row that hung by themselves, with nothing answered in between."""
    answers: int = 0
    """To batches, parts of them or single requests."""
    in_vain: int = 0
    """Trials that ran out of time before anything was answered."""
    kept: list[Quarantined] = field(default_factory=list)
    """Requests with their inputs, the first MAX_KEPT, until somebody takes them."""
    taken: int = 0
    """Of these: taken."""

    def quarantine(self, item: Quarantined) -> None:
        """Takes a request that fails by itself."""
        self.poison_count += 1
        self.memory_limit += item.cause is Cause.MEMORY_LIMIT
        if len(self.poison) < MAX_LISTED:
            self.poison.append(item.request_id)
        if self.taken + len(self.kept) < MAX_KEPT:
            self.kept.append(item)

    def untraced(self, message: str) -> None:
        """Takes a batch whose answer came without the trace that was asked for."""
        self.trace_faults += 1
        self.trace_fault = self.trace_fault or message

    def contradictions(self, found: Sequence[tuple[str, str]]) -> None:
        """Takes outputs whose shape contradicts the signature; the first word on each stays."""
        for name, words in found:
            if len(self.undeclared) < MAX_KEPT:
                self.undeclared.setdefault(name, words)

    def take(self) -> list[Quarantined]:
        """Hands out the requests that are kept."""
        items, self.kept = self.kept, []
        self.taken += len(items)
        return items

    def counters(self) -> LegCounters:
        """What happened so far."""
        values = {f.name: getattr(self, f.name) for f in fields(LegCounters)}
        lists = {"poison": tuple(self.poison), "undeclared": tuple(self.undeclared.items())}
        return LegCounters(**{**values, **lists})
