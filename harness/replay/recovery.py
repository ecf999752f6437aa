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
(the runtime gives back no memory). What runs out of memory is tried in halves, in the same process: that costs
next to nothing. A request is blamed for memory only when it was the first and only one that its process was
given, and for anything else only by a process that had not run out of memory. A batch is known to be too
large when it fails in a fresh process, too, and each of its requests is answered.

Tried and left: a fresh process after each failure. One request that needs too much cost a dozen processes, and
as many again wherever it was met.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np

from harness.core.observations import Cause, Outcome
from harness.core.tensors import Feeds, Ints
from harness.replay.flight import Flight
from harness.replay.leg_counters import USUAL, LegCaps, Tally
from harness.replay.poison import Found, locate
from harness.replay.recovered import Recovered, Speed, is_flaky
from harness.replay.tries import Tries
from harness.sandbox.answers import BatchAnswer, BatchFault

_SHORTEST_DEADLINE_S = 0.5
_PATIENCE = 20.0
"""A range of a search may take this many times as long as its rows ever took in a good batch."""


@dataclass(slots=True, kw_only=True)
class Recovery:
    """One batch that failed."""

    inputs: Feeds
    """As the version takes them, shape (R, *trailing)."""
    rows: Ints
    """Model rows per request, shape (n,)."""
    trace: bool
    """A trace was asked for."""
    flight: Flight
    """Gives a fresh process after each that dies."""
    caps: LegCaps
    """The leg's."""
    tally: Tally
    """The leg's."""
    speed: Speed
    """The leg's."""
    alike: Container[int] = ()
    """Requests that the other version fails in the same way: no sign of this one's kind."""
    most_rows: int = 0
    """More at once did not fit into the memory before; 0 = that is not known."""
    traceable: bool = False
    """The version's memory has been enough for a trace: where it is not, fewer requests are tried."""
    result: Recovered = field(default_factory=Recovered)
    """Filled on the way, so that a search that is cut short leaves what it knows."""
    _untraced: str = ""
    """What a part said that was answered only without the trace that was asked for."""
    _tries: Tries = field(init=False)

    def __post_init__(self) -> None:
        """What can be tried."""
        self._tries = Tries(
            inputs=self.inputs, rows=self.rows, flight=self.flight, tally=self.tally
        )

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
        if not fault.alive or (count == 1 and not fault.of_its_own):
            again = self._second_try(fault)
            if isinstance(again, BatchAnswer):
                self.result.whole = np.arange(count), again
                return
            fault = again
        if not count:
            return
        if count == 1:
            self._blame(0, fault)
        self._search(fault)

    def around(self, known: dict[int, BatchFault]) -> None:
        """Answers a batch without the requests that are known to fail by themselves; asks each once more.

        Without the trace, as they were blamed: what only a trace fails is no failure.

        Args:
          known: index → how it failed by itself.

        Raises:
          Ended: a cap was reached.
        """
        if not self.tally.answers and any(map(_hung, known.values())):
            # What is known to hang says nothing of the others, and another leg may have found it.
            self._sample(but=known)
        for index, fault in known.items():
            again = self._tries.tried(index, index + 1, trace=False)
            if isinstance(again, BatchAnswer):
                self.tally.answers += 1
                self.tally.flaky += is_flaky(fault, 1)
                self.result.passed.append(index)
                continue
            self.result.singles[index] = fault
            self.tally.asked_once_more += self.flight.processes.running is None
            if not self.tally.answers and _hung(again):
                self._hangs_on()
        rest = np.delete(np.arange(len(self.rows)), list(self.result.singles))
        fits = not self.most_rows or self._tries.rows_in(0, len(self.rows)) <= self.most_rows
        result = self._tries.filled(rest, traced=self.trace) if len(rest) and fits else None
        if len(rest) and not isinstance(result, BatchAnswer):
            if result is not None and _hung(result) and not self.tally.answers:
                self._sample()
            self._search(result)
            return
        self.result.found.poison += self.result.singles.items()
        if isinstance(result, BatchAnswer):
            self.result.whole = rest, result

    def _search(self, fault: BatchFault | None) -> None:
        """Finds what fails by itself, and answers the rest; None = the batch was not tried as a whole."""
        count, largest = len(self.rows), None
        if fault is None or fault.short_of_memory:
            largest = self._in_halves(0, count)
        else:
            locate(count, fault, self._searched, self.result.found)
        # Each part passes: perhaps chance, so the same is asked once more.
        chance = largest is None and fault is not None and fault.of_its_own
        chance = chance and not self.result.found.poison
        again = self._again(0, count, fault) if chance and fault is not None else None
        if again is None:
            self._put_together(fault, largest)
        else:
            self.result.whole = np.arange(count), again
        running = self.flight.processes.running
        if not self.result.found.poison and running is not None and running.ran_short:
            self.flight.start_afresh()  # what filled it is not known
            self.flight.processes.live()

    def _put_together(self, fault: BatchFault | None, largest: int | None) -> None:
        """Answers what is no poison from one run, where that can be; otherwise the pieces stay.

        Args:
          fault: of the batch; None = it was not tried as a whole.
          largest: as `_in_halves` returns.
        """
        count, found = len(self.rows), self.result.found
        poison = [i for i, _ in found.poison]
        rest = np.delete(np.arange(count), poison)
        if not len(rest):
            return
        most = self.result.most_rows or self.most_rows
        fits = not most or self._tries.rows_in(0, count) <= most
        # What failed in a process that held more has not been tried: perhaps it fits into another.
        untried = fault is not None and not fault.of_its_own
        result = (
            self._tries.filled(rest, traced=self.trace) if (poison or untried) and fits else None
        )
        if isinstance(result, BatchAnswer):
            self.result.whole = rest, result
            if untried and fault is not None and not (poison or fault.after_short):
                self._fits(max(self._tries.rows_in(0, count) // 2, 1))
            return
        shown = fault if result is None else result
        if shown is not None and shown.short_of_memory and shown.of_its_own and largest is not None:
            self._fits(largest)
        if self.result.most_rows or fault is None:
            self.tally.smaller += 1
        else:
            self.tally.assembled += 1
        said = self._untraced or ("" if fault is None or fault.short_of_memory else fault.message)
        if self.trace and said:
            self.tally.untraced(said)

    def _second_try(self, fault: BatchFault) -> BatchAnswer | BatchFault:
        """The identical batch in a fresh process; then, if a trace was asked for, without it."""
        self.tally.retries += 1
        count = len(self.rows)
        self.flight.start_afresh()
        result = self._tries.tried(0, count, trace=self.trace)
        if isinstance(result, BatchAnswer):
            self.tally.flaky += is_flaky(fault, count)
            self.tally.hangs = 0
            if fault.short_of_memory and not fault.after_short and count > 1:
                self._fits(self.flight.room_after(result))
        elif self.trace and not (result.short_of_memory and count > 1):
            traced, result = result, self._tries.tried(0, count, trace=False, sure=count == 1)
            if isinstance(result, BatchAnswer):
                self.tally.untraced(traced.message)
        return result

    def _in_halves(self, start: int, stop: int) -> int | None:
        """Answers a range that does not fit into the memory as a whole, in parts that do.

        Args:
          start: its first request.
          stop: the one behind its last.

        Returns:
          Rows that may be asked at once, by the largest part that was answered; None where memory was short
          for a request by itself.
        """
        if stop - start == 1:
            return self._in_parts(start, stop)
        middle = (start + stop) // 2
        halves = [self._in_parts(*part) for part in ((start, middle), (middle, stop))]
        return None if None in halves else max(rows for rows in halves if rows is not None)

    def _fits(self, rows: int) -> None:
        """Learns how many rows may be asked at once."""
        self.result.most_rows = min(rows, self.result.most_rows or rows)

    def _in_parts(self, start: int, stop: int) -> int | None:
        """As `_in_halves`, of a range that may fit as a whole."""
        found, most = self.result.found, self.result.most_rows or self.most_rows
        single = stop - start == 1
        if single and start in self.result.singles:
            shown = self.result.singles[start]
            found.poison.append((start, shown))
            return None if shown.short_of_memory else 1
        known = any(start <= i < stop for i in self.result.singles)
        if not single and (known or 0 < most < self._tries.rows_in(start, stop)):
            return self._in_halves(start, stop)
        result = self._alone(start) if single else self._tries.tried(start, stop, trace=self.trace)
        if isinstance(result, BatchAnswer) and self.traceable and not single:
            result = result.unless_traced()
        if isinstance(result, BatchAnswer):
            self._untraced = self._untraced or result.trace_error
            self.tally.hangs = 0
            found.pieces.append((start, stop, result))
            return self.flight.room_after(result)
        if single:
            self._blame(start, result)
            found.poison.append((start, result))
            return None if result.short_of_memory else 1
        if result.short_of_memory:
            return self._in_halves(start, stop)
        return self._searched_inside(start, stop, result)

    def _searched_inside(self, start: int, stop: int, fault: BatchFault) -> int | None:
        """As `_in_halves`, of a range with another failure: what it is about is searched as ever, without a trace."""
        found, inside = self.result.found, Found()
        try:
            locate(stop - start, fault, lambda a, b: self._searched(start + a, start + b), inside)
            again = None if inside.poison else self._again(start, stop, fault)
            if again is not None:
                inside.pieces = [(0, stop - start, again)]
            else:
                self._untraced = self._untraced or fault.message
        finally:
            found.pieces += [(start + a, start + b, answer) for a, b, answer in inside.pieces]
            found.poison += [(start + i, f) for i, f in inside.poison]
        if any(f.short_of_memory for _, f in inside.poison):
            return None
        return max((answer.rows // 2 for _, _, answer in inside.pieces), default=0) or 1

    def _again(self, start: int, stop: int, fault: BatchFault) -> BatchAnswer | None:
        """What a range gets the second time, each of whose parts has passed; None = it fails as such."""
        # What cost a process was asked a second time at once.
        second = fault.alive and not fault.short_of_memory
        result = self._tries.tried(start, stop, trace=self.trace, sure=True) if second else fault
        if isinstance(result, BatchAnswer):
            self.tally.flaky += is_flaky(fault, stop - start)
            return result
        if not result.short_of_memory:
            self.result.together.append((start, stop))
        return None

    def _alone(self, index: int) -> BatchAnswer | BatchFault:
        """What a request gets by itself, with its trace where that can be; a fault is its own."""
        result = self._tries.tried(index, index + 1, trace=self.trace, sure=not self.trace)
        if isinstance(result, BatchAnswer) and result.after_short:
            result = self._tries.tried(index, index + 1, trace=True, sure=True)
        if isinstance(result, BatchAnswer) or not self.trace:
            return result
        # In a fresh process without the trace first: where that fails, so does the other.
        bare = self._tries.tried(index, index + 1, trace=False, sure=True)
        if isinstance(bare, BatchAnswer) and not result.of_its_own:
            again = self._tries.tried(index, index + 1, trace=True)
            if isinstance(again, BatchAnswer):
                return again
        self._untraced = result.message
        return bare

    def _sample(self, but: Container[int] = ()) -> None:
        """Tries single requests, spread over the batch, of a version that has answered nothing so far.

        Args:
          but: not these.
        """
        among = [i for i in range(len(self.rows)) if i not in but]
        few = min(self.caps.max_hangs, len(among))
        for place in np.unique(np.linspace(0, len(among) - 1, few, dtype=int)):
            index = among[place]
            if isinstance(self._searched(index, index + 1), BatchAnswer):
                self.tally.answers += 1
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
        result = self._tries.tried(start, stop, trace=False, timeout_s=timeout_s, sure=single)
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
        self._check_caps(fault, alike=index in self.alike)

    def _usual_s(self, start: int, stop: int) -> float | None:
        """Time that a range may take; None = the whole deadline."""
        sandbox = self.flight.processes.live()
        if not self.speed.slowest_s_per_row:
            return None
        usual_s = _PATIENCE * self._tries.rows_in(start, stop) * self.speed.slowest_s_per_row
        return min(sandbox.batch_deadline_s, max(_SHORTEST_DEADLINE_S, usual_s))

    def _check_caps(self, fault: BatchFault, *, alike: bool) -> None:
        """Ends the leg when single requests have cost enough.

        Raises:
          Ended: they have.
        """
        if not fault.costs_process:
            return
        self.tally.costly += not alike
        self.tally.costly_alike += alike
        if _hung(fault):
            self._hangs_on()
        else:
            self.tally.hangs = 0
        ending = self.flight.processes.ending
        all_costly = self.tally.costly + self.tally.costly_alike
        most = max(self.caps.max_quarantined, USUAL.max_quarantined)
        if self.tally.costly >= self.caps.max_quarantined or all_costly >= most:
            raise ending(f"{all_costly} requests ended its process, each by itself")

    def _hangs_on(self) -> None:
        """Counts a request that hung by itself.

        Raises:
          Ended: as many did in a row.
        """
        self.tally.hangs += 1
        if self.tally.hangs >= self.caps.max_hangs:
            what = f"{self.tally.hangs} requests in a row got no answer, each by itself"
            raise self.flight.processes.ending(what)


def _hung(fault: BatchFault) -> bool:
    """Whether the version had its time and gave no answer."""
    return fault.kind is Outcome.TIMEOUT and fault.cause is not Cause.HOST_STARVED
