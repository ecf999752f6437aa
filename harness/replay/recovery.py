"""Making the most of a batch that failed: once more, then a search, then the rest as it was.

The identical batch is tried again in a fresh process: when it passes, the fault was flaky. Otherwise
the requests that fail by themselves are searched (`poison`), and the batch is run again with their rows
replaced by rows of its other requests. The batch keeps its size and everything else its place, so that
the other answers have the bits that an unharmed batch would have given; leaving the rows out would
give another composition. Requests that fail only in company keep the answers of smaller groups.

A version that hangs on everything would cost a deadline for each step of a search. When nothing is
known of its speed, single requests are tried first; a few that hang in a row, with nothing answered in
between, end the leg.

How many requests share a batch is the harness's choice, and so is what earlier batches left in a process
(the runtime gives back no memory). What runs out of memory is tried again in a fresh process, then in
halves, each after a failure in a fresh process, too; a request is blamed for memory only when it was
the first and only one that its process was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from harness.core.observations import Cause, Outcome
from harness.core.tensors import Bools, Feeds, Ints, Tensors
from harness.replay.assembly import Part
from harness.replay.leg_counters import LegCaps, Tally
from harness.replay.poison import Found, locate
from harness.replay.processes import Processes
from harness.sandbox.answers import BatchAnswer, BatchFault

_SHORTEST_DEADLINE_S = 0.5
_PATIENCE = 20.0
"""A range of a search may take this many times as long as its rows ever took in a good batch."""
STARVED_TRIES = 3
"""Tries of the same when the host gives no processor."""


@dataclass(slots=True)
class Speed:
    """What a leg knows of its version's speed."""

    slowest_s_per_row: float = 0.0
    """In a batch that was answered; 0 = none was."""

    def learn(self, answer: BatchAnswer) -> None:
        """Takes over the time of an answer to a batch or a part of one."""
        if answer.rows:
            self.slowest_s_per_row = max(self.slowest_s_per_row, answer.service_s / answer.rows)


@dataclass(slots=True)
class Recovered:
    """What is known of a batch afterwards."""

    found: Found = field(default_factory=Found)
    """What the search knows."""
    singles: dict[int, BatchFault] = field(default_factory=dict)
    """Requests that failed when they were tried alone, also when the search was cut short then."""
    whole: Part | None = None
    """The answers of everything that is no poison, from one run; None = only the pieces."""
    most_rows: int = 0
    """So many fit into the memory at once, where the batch did only in parts; 0 = nothing is known."""

    def poison(self) -> dict[int, BatchFault]:
        """Index → how the request fails by itself."""
        return (
            {}
            if self.whole and not self.found.poison
            else {**self.singles, **dict(self.found.poison)}
        )

    def parts(self) -> list[Part]:
        """The answers to keep."""
        if self.whole is not None:
            return [self.whole]
        return [(np.arange(a, b), answer) for a, b, answer in self.found.pieces]


@dataclass(slots=True, kw_only=True)
class Recovery:
    """One batch that failed."""

    inputs: Feeds
    """As the version takes them, shape (R, *trailing)."""
    rows: Ints
    """Model rows per request, shape (n,)."""
    trace: bool
    """A trace was asked for."""
    processes: Processes
    """Gives a fresh process after each that dies."""
    caps: LegCaps
    """The leg's."""
    tally: Tally
    """The leg's."""
    speed: Speed
    """The leg's."""
    died: Callable[[], None]
    """Called when a process died or was given up: what was in flight in it must be sent again."""
    most_rows: int = 0
    """More at once did not fit into the memory before; 0 = that is not known."""
    traceable: bool = False
    """The version's memory has been enough for a trace: where it is not, fewer requests are tried."""
    result: Recovered = field(default_factory=Recovered)
    """Filled on the way, so that a search that is cut short leaves what it knows."""
    _untraced: str = ""
    """What a part said that was answered only without the trace that was asked for."""
    _offsets: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Where each request's rows begin."""
        self._offsets = np.concatenate([[0], np.cumsum(self.rows)])

    def recover(self, fault: BatchFault) -> None:
        """Retry, search, re-run.

        Args:
          fault: how the batch failed.

        Raises:
          Ended: a cap was reached.
        """
        count = len(self.rows)
        self.tally.host_starved += fault.cause is Cause.HOST_STARVED
        if count > 1 and _hung(fault) and not self.speed.slowest_s_per_row:
            self._sample()
        if not fault.alive or (fault.short_of_memory and fault.seq > 1):
            again = self._second_try(fault)
            if isinstance(again, BatchAnswer):
                self.result.whole = np.arange(count), again
                return
            fault = again
        if not count:
            return
        if count == 1:
            self._blame(0, fault)
        if fault.short_of_memory:
            self._in_halves(0, count, fault)
        else:
            locate(count, fault, self._searched, self.result.found)
        self._put_together(fault)

    def _put_together(self, fault: BatchFault) -> None:
        """Answers what is no poison from one run, where that can be; otherwise the pieces stay."""
        count = len(self.rows)
        poison = [i for i, _ in self.result.found.poison]
        rest = np.delete(np.arange(count), poison)
        if not len(rest):
            return
        most = self.result.most_rows or self.most_rows
        fits = not most or self._rows(0, count) <= most
        answer = self._refilled(rest) if poison and fits else None
        if answer is not None:
            self.result.whole = rest, answer
            return
        if self.result.most_rows:
            self.tally.smaller += 1
        else:
            self.tally.assembled += 1
        if self.trace and (self._untraced or not fault.short_of_memory):
            self.tally.untraced(self._untraced or fault.message)

    def _second_try(self, fault: BatchFault) -> BatchAnswer | BatchFault:
        """The identical batch in a fresh process; then, if a trace was asked for, without it."""
        self.tally.retries += 1
        result = self._tried(0, len(self.rows), trace=self.trace)
        if isinstance(result, BatchAnswer):
            self.tally.flaky += is_flaky(fault, len(self.rows))
            self.tally.hangs = 0
            if fault.short_of_memory and len(self.rows) > 1:
                self._fits(self._rows(0, len(self.rows)))
        elif self.trace and not (result.short_of_memory and len(self.rows) > 1):
            traced, result = result, self._tried(0, len(self.rows), trace=False)
            if isinstance(result, BatchAnswer):
                self.tally.untraced(traced.message)
        return result

    def _in_halves(self, start: int, stop: int, fault: BatchFault | None) -> bool:
        """Answers a range that does not fit into the memory as a whole, in parts that do.

        Args:
          start: its first request.
          stop: the one behind its last.
          fault: how it failed as a whole, in a fresh process; None = it was not tried.

        Returns:
          Whether memory was short for no request by itself.
        """
        if stop - start == 1:
            if fault is not None:
                self.result.found.poison.append((start, fault))
                return False
            return self._in_parts(start, stop)
        middle = (start + stop) // 2
        fit = [self._in_parts(*part) for part in ((start, middle), (middle, stop))]
        if all(fit) and fault is not None:
            self._fits(max(self._rows(start, middle), self._rows(middle, stop)))
        return all(fit)

    def _fits(self, rows: int) -> None:
        """Learns from rows that only just fit: half of them leave room for what a process keeps."""
        rows = max(rows // 2, 1)
        self.result.most_rows = min(rows, self.result.most_rows or rows)

    def _in_parts(self, start: int, stop: int) -> bool:
        """As `_in_halves`, of a range that may fit as a whole."""
        most = self.result.most_rows or self.most_rows
        if stop - start > 1 and most and self._rows(start, stop) > most:
            return self._in_halves(start, stop, None)
        single = stop - start == 1
        result = self._tried(start, stop, trace=self.trace)
        if isinstance(result, BatchAnswer) and self.traceable and not single:
            result = result.unless_traced()
        if isinstance(result, BatchAnswer):
            self._untraced = self._untraced or result.trace_error
        if single and self.trace and isinstance(result, BatchFault):
            self._untraced = result.message
            result = self._tried(start, stop, trace=False)
        found = self.result.found
        if isinstance(result, BatchAnswer):
            self.tally.hangs = 0
            found.pieces.append((start, stop, result))
            return True
        if single:
            self._blame(start, result)
        if result.short_of_memory:
            return self._in_halves(start, stop, result)
        # Another failure: what it is about is searched as ever, without a trace.
        self._untraced = self._untraced or result.message
        inside = Found()
        try:
            locate(stop - start, result, lambda a, b: self._searched(start + a, start + b), inside)
        finally:
            found.pieces += [(start + a, start + b, answer) for a, b, answer in inside.pieces]
            found.poison += [(start + i, f) for i, f in inside.poison]
        return True

    def _rows(self, start: int, stop: int) -> int:
        """Of a range of requests."""
        return int(self._offsets[stop] - self._offsets[start])

    def _sample(self) -> None:
        """Tries single requests, spread over the batch, of a version that has answered nothing so far."""
        last = len(self.rows) - 1
        for index in np.unique(np.linspace(0, last, min(self.caps.max_hangs, last + 1), dtype=int)):
            if isinstance(self._searched(int(index), int(index) + 1), BatchAnswer):
                return

    def _searched(self, start: int, stop: int) -> BatchAnswer | BatchFault:
        """One try of a search; what a single request showed is never tried again.

        A range gets less time than a batch when the leg knows how long its rows usually take: a hang
        is then found in seconds. A single request always gets the whole deadline before it is blamed.
        """
        known = next((f for i, f in self.result.singles.items() if start <= i < stop), None)
        if known is not None:
            return known
        single = stop - start == 1
        timeout_s = None if single else self._usual_s(start, stop)
        result = self._tried(start, stop, trace=False, timeout_s=timeout_s)
        if isinstance(result, BatchAnswer):
            self.speed.learn(result)
            self.tally.hangs = 0
        elif single:
            self._blame(start, result)
        return result

    def _blame(self, index: int, fault: BatchFault) -> None:
        """Notes that a request fails by itself.

        Raises:
          Ended: a cap was reached.
        """
        self.result.singles[index] = fault
        self._check_caps(fault)

    def _usual_s(self, start: int, stop: int) -> float | None:
        """Time that a range may take; None = the whole deadline."""
        sandbox = self.processes.live()
        if not self.speed.slowest_s_per_row:
            return None
        usual_s = _PATIENCE * self._rows(start, stop) * self.speed.slowest_s_per_row
        return min(sandbox.batch_deadline_s, max(_SHORTEST_DEADLINE_S, usual_s))

    def _check_caps(self, fault: BatchFault) -> None:
        """Ends the leg when single requests have cost enough.

        Raises:
          Ended: they have.
        """
        if fault.alive and not fault.short_of_memory:
            return
        self.tally.costly += 1
        self.tally.hangs = self.tally.hangs + 1 if _hung(fault) else 0
        if self.tally.hangs >= self.caps.max_hangs:
            raise self.processes.ending(
                f"{self.tally.hangs} requests in a row got no answer, each by itself"
            )
        if self.tally.costly >= self.caps.max_quarantined:
            raise self.processes.ending(
                f"{self.tally.costly} requests ended its process, each by itself"
            )

    def _refilled(self, rest: Ints) -> BatchAnswer | None:
        """The batch with other requests' rows in place of its poison; the answers of `rest` alone."""
        keep = np.zeros(len(self.rows), np.bool_)
        keep[rest] = True
        kept = np.repeat(keep, self.rows)
        good, bad = np.flatnonzero(kept), np.flatnonzero(~kept)
        if not len(good):
            return None  # requests without rows: their pieces say all there is
        source = np.arange(len(kept))
        source[bad] = good[np.arange(len(bad)) % len(good)]
        inputs = {name: array[source] for name, array in self.inputs.items()}
        self.tally.refilled += 1
        message = ""
        for trace in dict.fromkeys([self.trace, False]):
            result = self._run(inputs, len(kept), trace=trace, timeout_s=None)
            if isinstance(result, BatchAnswer):
                if self.trace and not trace:
                    self.tally.untraced(message)
                return _without(result, kept)
            message = result.message
        return None

    def _tried(
        self, start: int, stop: int, *, trace: bool, timeout_s: float | None = None
    ) -> BatchAnswer | BatchFault:
        """Runs some requests of the batch alone."""
        first, last = int(self._offsets[start]), int(self._offsets[stop])
        inputs = {name: array[first:last] for name, array in self.inputs.items()}
        return self._run(inputs, last - first, trace=trace, timeout_s=timeout_s)

    def _run(
        self, inputs: Feeds, rows: int, *, trace: bool, timeout_s: float | None
    ) -> BatchAnswer | BatchFault:
        """One run, in a fresh process when the last has died; more when the host is to blame.

        Raises:
          Ended: a cap was reached, or the host gave no processor again and again.
        """
        starved = 0
        while starved < STARVED_TRIES:
            sandbox = self.processes.live()
            sandbox.submit(inputs, rows, trace=trace)
            result = sandbox.collect(timeout_s)
            if self.processes.drop_dead():
                self.died()
            if isinstance(result, BatchAnswer):
                return result
            if result.short_of_memory:
                self.processes.discard()
                self.died()
                if result.seq == 1:
                    return result
            elif result.cause is not Cause.HOST_STARVED:
                return result
            else:
                starved += 1
                self.tally.host_starved += 1
        raise self.processes.ending("the host gave its process no processor")


def is_flaky(fault: BatchFault, requests: int) -> bool:
    """Whether what failed so and passed unchanged the second time says something of the version.

    A host without a processor says nothing, nor does a memory that several requests at once have filled:
    how many is the harness's choice. A process that needs more and more for single requests does.

    Args:
      fault: the first time.
      requests: that shared the batch.
    """
    if fault.short_of_memory:
        return requests == 1 and (fault.grown or fault.seq == 1)
    return fault.cause is not Cause.HOST_STARVED


def _hung(fault: BatchFault) -> bool:
    """Whether the version had its time and gave no answer."""
    return fault.kind is Outcome.TIMEOUT and fault.cause is not Cause.HOST_STARVED


def _without(answer: BatchAnswer, kept: Bools) -> BatchAnswer:
    """Some rows of an answer, with their share of its time."""
    rows = int(kept.sum())

    def cut(tensors: Tensors) -> Tensors:
        return {name: array[kept] for name, array in tensors.items()}

    return replace(
        answer,
        rows=rows,
        outputs=cut(answer.outputs),
        features=cut(answer.features),
        trace_outputs=cut(answer.trace_outputs),
        service_s=answer.service_s * rows / max(len(kept), 1),
    )
