"""Requests on their way into the evidence: in order of arrival, each once, whatever became of it.

A request enters once its answer is known or its time is over; what never had an answer enters as
failed. So no outcome can keep a request out of the evidence, and a batch is whole up to its end.
Silence beyond the patience is a failure of the arm; what was lost here is unknown, and nobody's fault.

`arrive` may be called from another thread than everything else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.core.live import Live, LiveKind, LiveMetric
from harness.core.tensors import Floats
from harness.judge.exposures import Requests
from harness.live.arrivals import Arrival
from harness.live.split import Split, name_of
from harness.live.values import of_silence


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Requests that have ended before all that have not, in order of arrival."""

    requests: Requests
    """As the judge takes them."""
    answers: dict[str, Floats]
    """Guardrail with a loss → what the label will be compared with, NaN = failed; one a request."""
    until_ns: int
    """All that arrived before it are in this batch or in one before."""
    seq: int
    """Number of the last arrival in it or in one before."""


@dataclass(slots=True)
class _Waiting:
    """An arrival whose answer may still come."""

    arrival: Arrival
    values: Mapping[str, float] | None = None
    answers: Mapping[str, float] | None = None
    left_out: frozenset[str] = frozenset()


class Intake:
    """Arrivals until they have ended.

    Args:
      live: the policy's live section.
      split: places units.
      noted: hears of every arrival, before `arrive` returns.
    """

    def __init__(self, live: Live, split: Split, noted: Callable[[Arrival], None]) -> None:
        self._split = split
        self._noted = noted
        self._carried = tuple(g.name for g in live.guardrails if g.label_maturity_s is None)
        self._counting = frozenset(g.name for g in live.guardrails if g.kind is LiveKind.ERRORS)
        self._of_silence = self._unknown() | of_silence(live)
        self._losses = tuple(g.name for g in live.guardrails if g.metric is LiveMetric.LOSS)
        self._patience_ns = round(live.patience_s * 1e9)
        self._lock = threading.Lock()
        self._arrived: deque[Arrival] = deque()
        self._waiting: dict[int, _Waiting] = {}
        self._seq = 0
        self.entered_seq = 0
        """Number of the last arrival that is in a batch."""
        self.last_ns = 0
        """No later arrival is before it."""
        self._step, self._share = 0, 0.0
        self.counts: dict[str, int] = {}
        """What entered as failed, and what came too late, by reason."""

    def count(self, reason: str, by: int = 1) -> None:
        """Adds to a count."""
        if by:
            with self._lock:
                self.counts[reason] = self.counts.get(reason, 0) + by

    def arrive(self, unit: str, ts_ns: int) -> Arrival:
        """Places a request.

        Args:
          unit: as the request names it; "" = it is a unit by itself.
          ts_ns: when it came; moved behind the arrival before where it is not later.
        """
        with self._lock:
            self._seq += 1
            place = self._split.place(unit or f"request {self._seq}")
            self.last_ns = ts_ns = max(ts_ns, self.last_ns + 1)
            share = self._share
            arrival = Arrival(self._seq, ts_ns, place.unit, share, self._step, place.draw < share)
            self._noted(arrival)
            self._arrived.append(arrival)
        return arrival

    def answered(
        self, seq: int, values: Mapping[str, float] | None, answers: Mapping[str, float],
        left_out: frozenset[str],
    ) -> None:  # fmt: skip
        """Takes in what became of a request; a second word about it, or a late one, is counted.

        Args:
          seq: of its arrival.
          values: guardrail → value, NaN = failed; None = it ended and nothing is known of how.
          answers: guardrail with a loss → what its label will be compared with.
          left_out: guardrails of which the request says nothing, as its client asked for other outputs.
        """
        self._drain()
        waiting = self._waiting.get(seq)
        if waiting is None or waiting.values is not None:
            self.count("answered_late")
            return
        waiting.values = self._unknown() if values is None else values
        waiting.answers, waiting.left_out = answers, left_out
        if values is None:
            self.count("not_observed")

    def left_out(self, seq: int, reason: str) -> None:
        """Takes a request back that enters nothing, whatever is asked.

        Args:
          seq: of its arrival.
          reason: what it is counted as.
        """
        self._drain()
        if self._waiting.pop(seq, None) is not None:
            self.count(reason)

    def lost(self, arrivals: Iterable[Arrival], last_seq: int) -> int:
        """Takes in what had arrived before the process ended and is in no batch.

        Args:
          arrivals: those whose names are known, in order.
          last_seq: number of the last arrival there was.

        Returns:
          How many have no name.
        """
        named = 0
        for arrival in arrivals:
            self._waiting[arrival.seq] = _Waiting(arrival, self._unknown(), {})
            self.last_ns = max(self.last_ns, arrival.ts_ns)
            named += 1
        self._seq = max(self._seq, last_seq)
        self.count("lost_at_a_restart", named)
        return max(last_seq - self.entered_seq - named, 0)

    def entered(self, seq: int, until_ns: int) -> None:
        """Goes on behind a batch of an earlier process."""
        with self._lock:
            self.entered_seq = max(self.entered_seq, seq)
            self._seq = max(self._seq, seq)
            self.last_ns = max(self.last_ns, until_ns)

    def at(self, step: int, share: float) -> None:
        """Arrivals from now on are placed by this step of the ramp."""
        with self._lock:
            self._step, self._share = step, share

    def _unknown(self) -> dict[str, float]:
        """Nothing is known: the worst for whatever is to be proven, and no error is counted."""
        return {name: 0.0 if name in self._counting else np.nan for name in self._carried}

    def _drain(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, deque()
        for arrival in arrived:
            self._waiting[arrival.seq] = _Waiting(arrival)

    def ended(self, now_ns: int) -> Ended:
        """Hands out what has ended, up to the first request that may still be answered.

        Args:
          now_ns: the instant now, by the clock of the arrivals.
        """
        self._drain()
        with self._lock:
            until_ns = max(now_ns, self.last_ns + 1)
            if self._arrived:
                until_ns = self._arrived[0].ts_ns
            else:
                self.last_ns = until_ns - 1
        rows: list[_Waiting] = []
        for waiting in self._waiting.values():
            if waiting.values is None:
                if now_ns - waiting.arrival.ts_ns < self._patience_ns:
                    until_ns = waiting.arrival.ts_ns
                    break
                waiting.values = self._of_silence
                self.count("never_answered")
            rows.append(waiting)
        for waiting in rows:
            del self._waiting[waiting.arrival.seq]
        if rows:
            self.entered_seq = rows[-1].arrival.seq
        return Ended(
            requests=self._columns(rows),
            answers={
                name: np.array([(row.answers or {}).get(name, np.nan) for row in rows], np.float64)
                for name in self._losses
            },
            until_ns=until_ns,
            seq=self.entered_seq,
        )

    def _columns(self, rows: list[_Waiting]) -> Requests:
        arrivals = [row.arrival for row in rows]
        return Requests(
            ts_ns=np.array([a.ts_ns for a in arrivals], np.int64),
            unit=np.array([name_of(a.unit) for a in arrivals], object),
            candidate=np.array([a.candidate for a in arrivals], np.bool_),
            propensity=np.array([a.share for a in arrivals], np.float64),
            values={
                name: np.array([(row.values or {})[name] for row in rows], np.float64)
                for name in self._carried
            },
            left_out={
                name: np.array([name in row.left_out for row in rows], np.bool_)
                for name in sorted(frozenset().union(*(row.left_out for row in rows)))
            },
        )
