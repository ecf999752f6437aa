"""One try of some of a batch's requests: by themselves, or with other requests' rows in place of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.core.observations import Cause
from harness.core.tensors import Feeds, Ints
from harness.replay.flight import STARVED_TRIES, Flight
from harness.replay.leg_counters import Tally
from harness.replay.refill import refilled, without
from harness.sandbox.answers import BatchAnswer, BatchFault


@dataclass(slots=True, kw_only=True)
class Tries:
    """What can be tried of one batch."""

    inputs: Feeds
    """As the version takes them, shape (R, *trailing)."""
    rows: Ints
    """Model rows per request, shape (n,)."""
    flight: Flight
    """Gives a fresh process after each that dies."""
    tally: Tally
    """The leg's."""
    _offsets: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Where each request's rows begin."""
        self._offsets = np.concatenate([[0], np.cumsum(self.rows)])

    def rows_in(self, start: int, stop: int) -> int:
        """Of a range of requests."""
        return int(self._offsets[stop] - self._offsets[start])

    def filled(self, rest: Ints, *, traced: bool) -> BatchAnswer | BatchFault | None:
        """The batch with other requests' rows in place of its poison; the answers of `rest` alone.

        None for requests without rows: their pieces say all there is.
        """
        filled = refilled(self.inputs, self.rows, rest)
        if filled is None:
            return None
        inputs, kept = filled
        self.tally.refilled += len(rest) < len(self.rows)
        message, result = "", None
        for trace in dict.fromkeys([traced, False]):
            result = self._run(inputs, len(kept), trace=trace, sure=True)
            if isinstance(result, BatchAnswer):
                if traced and not trace:
                    self.tally.untraced(message)
                return without(result, kept)
            message = result.message
        return result

    def tried(
        self, start: int, stop: int, *, trace: bool, timeout_s: float | None = None, sure: bool = False
    ) -> BatchAnswer | BatchFault:  # fmt: skip
        """Runs some requests of the batch alone."""
        first, last = int(self._offsets[start]), int(self._offsets[stop])
        inputs = {name: array[first:last] for name, array in self.inputs.items()}
        return self._run(inputs, last - first, trace=trace, timeout_s=timeout_s, sure=sure)

    def _run(
        self, inputs: Feeds, rows: int, *, trace: bool, timeout_s: float | None = None, sure: bool
    ) -> BatchAnswer | BatchFault:
        """One run, in a fresh process when the last has died; more when the host is to blame.

        Args:
          inputs: shape (rows, *trailing).
          rows: of them.
          trace: with features.
          timeout_s: as for `Sandbox.collect`.
          sure: a fault, or a missing trace, is to be of the batch's own: in another process where the one at hand
            may be to blame.

        Raises:
          Ended: a cap was reached, or the host gave no processor again and again.
        """
        starved = 0
        while starved < STARVED_TRIES:
            sandbox = self.flight.processes.live()
            sandbox.submit(inputs, rows, trace=trace)
            result = sandbox.collect(timeout_s)
            self.flight.drop_dead()
            if not isinstance(result, BatchAnswer) and result.cause is Cause.HOST_STARVED:
                starved += 1
                self.tally.host_starved += 1
            elif sure and not result.of_its_own:
                self.flight.start_afresh()
            else:
                return result
        raise self.flight.processes.ending("the host gave its process no processor")
