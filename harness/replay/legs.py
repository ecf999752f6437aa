"""One pass of batches through one version; whatever happens to its process, the pass goes on.

A batch that ends its process is tried once more, unchanged, in a fresh one: when that passes, the fault
was flaky and is counted. Otherwise the requests that fail by themselves are searched (`poison`) and the
rest of the batch is run again without them. Requests that fail only in company keep the answers they
got in smaller groups. All of it is bounded: past its caps the leg ends, and the remaining requests are
NOT_RUN, which is no answer about the model and never counts as one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from harness.core.errors import GateError, SignatureError, nearest
from harness.core.observations import Observations
from harness.core.tensors import NUMPY_DTYPES, Ints, Tensors
from harness.core.traffic import RequestBatch
from harness.replay.assembly import (
    Part,
    Shapes,
    observations_from_answer,
    observations_from_parts,
    shapes_from_signature,
)
from harness.replay.leg_counters import LegCaps, LegCounters
from harness.replay.poison import Found, locate
from harness.sandbox.answers import BatchAnswer, BatchFault, LoadFailure
from harness.sandbox.process import Sandbox

MAX_LISTED = 1000
_SHORTEST_DEADLINE_S = 0.5
_PATIENCE = 20.0
"""A range of a search may take this many times as long as its rows ever took in a good batch."""


class _Ended(Exception):  # noqa: N818 - ends a search, not an error
    """A cap was reached on the way."""


@dataclass(slots=True)
class _Pending:
    """A batch between submit and collect."""

    batch: RequestBatch
    inputs: Tensors
    trace: bool
    sent: bool = False
    result: BatchAnswer | BatchFault | None = None


class Leg:
    """One version over batches of requests, answers in order.

    Args:
      open_sandbox: starts a process with the version loaded, or says why it cannot.
      name: for messages: baseline, candidate.
      input_names: (name in the traffic, this version's name) for inputs that are called otherwise.
      caps: when to give up.
    """

    def __init__(
        self,
        open_sandbox: Callable[[], Sandbox | LoadFailure],
        *,
        name: str,
        input_names: Sequence[tuple[str, str]] = (),
        caps: LegCaps | None = None,
    ) -> None:
        self.name = name
        self.ended = ""
        """Why the leg gives no more answers; "" while it does."""
        self.load_failure: LoadFailure | None = None
        """Set when the version could not be loaded at the start."""
        self._open = open_sandbox
        self._caps = caps or LegCaps()
        self._column = {own: traffic for traffic, own in input_names}
        self._pending: deque[_Pending] = deque()
        self._counts = dict.fromkeys(
            ("batches", "restarts", "retries", "flaky", "recomposed", "assembled", "trace_faults", "poison"), 0
        )  # fmt: skip
        self._poison: list[str] = []
        self._fault_s = 0.0
        self._slowest_s_per_row = 0.0
        self._recovering_since: float | None = None
        self._sandbox: Sandbox | None = None
        self.first: Sandbox | None = None
        """The first process: its signature, isolation and versions stay readable after it ended."""
        self._shapes = Shapes(outputs={})
        opened = open_sandbox()
        if isinstance(opened, LoadFailure):
            self.load_failure = opened
            self.ended = f"does not load: {opened.message}"
            return
        self._sandbox = self.first = opened
        self._shapes = shapes_from_signature(opened.signature)

    def submit(self, batch: RequestBatch, *, trace: bool) -> None:
        """Gives the version a batch and returns without waiting.

        Args:
          batch: requests in test order.
          trace: also return feature tensors.

        Raises:
          SignatureError: the traffic lacks an input of the version.
        """
        if self.ended:
            self._pending.append(_Pending(batch, {}, trace))
            return
        entry = _Pending(batch, self._inputs(batch), trace)
        self._pending.append(entry)
        self._send_waiting()

    def collect(self) -> Observations:
        """The observations of the oldest batch.

        Raises:
          GateError: no batch was submitted.
        """
        if not self._pending:
            raise GateError(self.name, "no batch is in flight", "Call submit first.")
        entry = self._pending.popleft()
        self._counts["batches"] += 1
        result = entry.result or self._awaited(entry)
        if result is None:
            return self._observed(entry, [], {})
        if isinstance(result, BatchFault):
            return self._recovered(entry, result)
        return self._answered(entry, result)

    def counters(self) -> LegCounters:
        """What happened so far."""
        counts = dict(self._counts)
        return LegCounters(
            fault_s=self._fault_s,
            poison=tuple(self._poison),
            poison_count=counts.pop("poison"),
            **counts,
        )

    def close(self) -> None:
        """Ends the process; nothing more can be collected from it."""
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None
        self.ended = self.ended or "was closed"

    def __enter__(self) -> Leg:
        """The leg itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self.close()

    def _inputs(self, batch: RequestBatch) -> Tensors:
        """The traffic's columns under this version's names; columns it does not take stay out."""
        if self.first is None:
            return {}
        inputs: Tensors = {}
        for spec in self.first.signature.inputs:
            column = self._column.get(spec.name, spec.name)
            if spec.datatype not in NUMPY_DTYPES:
                raise SignatureError(
                    f"{self.name} input {spec.shown()}",
                    "recorded requests cannot carry this type",
                    "Export the model with plain tensors as inputs.",
                )
            if column not in batch.inputs:
                raise SignatureError(
                    f"{self.name} input {spec.shown()}",
                    f"the traffic has no input '{column}'",
                    f"Map it under mapping.inputs in the policy; {nearest(column, batch.inputs)}",
                )
            inputs[spec.name] = batch.inputs[column]
        return inputs

    def _send(self, entry: _Pending, sandbox: Sandbox) -> None:
        sandbox.submit(entry.inputs, int(entry.batch.rows.sum()), trace=entry.trace)
        entry.sent = True

    def _awaited(self, entry: _Pending) -> BatchAnswer | BatchFault | None:
        """Waits for a batch's answer, sending it first when it has lost its process; None = not run."""
        try:
            sandbox = self._live()
        except _Ended:
            return None
        if not entry.sent:
            self._send(entry, sandbox)
            self._send_waiting()
        result = sandbox.collect()
        self._drop_dead()
        return result

    def _send_waiting(self) -> None:
        """Gives a running process every batch it does not have yet, in order."""
        for entry in self._pending:
            if self._sandbox is not None and not entry.sent and entry.result is None:
                self._send(entry, self._sandbox)

    def _live(self) -> Sandbox:
        """The running process; a new one when the last has died.

        Raises:
          _Ended: the leg had ended, or ends now.
        """
        self._check_caps()
        if self._sandbox is None:
            if self._counts["restarts"] >= self._caps.max_restarts:
                self._end(f"its process had to be restarted {self._caps.max_restarts} times")
            self._counts["restarts"] += 1
            opened = self._open()
            if isinstance(opened, LoadFailure):
                self._end(f"could not be started again: {opened.message}")
            else:
                self._sandbox = opened
        if self._sandbox is None:
            raise _Ended
        return self._sandbox

    def _reopened(self) -> None:
        """Gives the batches that lost their process a new one, unless the leg has ended."""
        with contextlib.suppress(_Ended):
            self._live()
        self._send_waiting()

    def _check_caps(self) -> None:
        if self._recovering_since is not None:
            spent = self._fault_s + time.perf_counter() - self._recovering_since
            if spent > self._caps.max_fault_s and not self.ended:
                self._end(f"failures have taken more than {self._caps.max_fault_s:g} s")
        if self.ended:
            raise _Ended

    def _end(self, why: str) -> None:
        self.ended = why
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None
        raise _Ended

    def _drop_dead(self) -> None:
        """Lets go of a dead process; what was in flight behind the fatal batch must be sent again."""
        if self._sandbox is None or self._sandbox.alive:
            return
        self._sandbox.close()
        self._sandbox = None
        for entry in self._pending:
            entry.sent = entry.sent and entry.result is not None

    def _answered(self, entry: _Pending, answer: BatchAnswer) -> Observations:
        self._shapes.learn(answer)
        if answer.rows:
            s_per_row = answer.service_s / answer.rows
            self._slowest_s_per_row = max(self._slowest_s_per_row, s_per_row)
        if entry.trace and answer.trace_error:
            self._counts["trace_faults"] += 1
        return observations_from_answer(entry.batch, answer, self._shapes)

    def _observed(
        self, entry: _Pending, parts: Sequence[Part], faults: dict[int, BatchFault]
    ) -> Observations:
        for _, answer in parts:
            self._shapes.learn(answer)
        return observations_from_parts(entry.batch, parts, faults, self._shapes, trace=entry.trace)

    def _recovered(self, entry: _Pending, fault: BatchFault) -> Observations:
        """Makes the most of a batch that failed, then sends again what lost its process."""
        self._recovering_since = time.perf_counter()
        found = Found()
        whole: Part | None = None
        try:
            self._settle_in_flight()
            whole = self._resolved(entry, fault, found)
        except _Ended:
            pass  # `found` holds what is known; the rest was not run
        finally:
            self._fault_s += time.perf_counter() - self._recovering_since
            self._recovering_since = None
        faults = dict(found.poison)
        self._counts["poison"] += len(faults)
        ids = [str(entry.batch.request_id[i]) for i in sorted(faults)]
        self._poison.extend(ids[: MAX_LISTED - len(self._poison)])
        parts = [whole] if whole else [(np.arange(a, b), r) for a, b, r in found.pieces]
        if any(not p.sent and p.result is None for p in self._pending):
            self._reopened()
        return self._observed(entry, parts, faults)

    def _settle_in_flight(self) -> None:
        """Collects what the process already has, so that tries do not queue up behind it."""
        for entry in self._pending:
            if self._sandbox is None:
                return
            if entry.sent and entry.result is None:
                entry.result = self._sandbox.collect()
                self._drop_dead()

    def _resolved(self, entry: _Pending, fault: BatchFault, found: Found) -> Part | None:
        """Retry, search, re-run; None when only `found` knows anything.

        Raises:
          _Ended: a cap was reached; `found` holds what is known.
        """
        count = len(entry.batch)
        if not fault.alive:
            result = self._second_try(entry)
            if isinstance(result, BatchAnswer):
                return np.arange(count), result
            fault = result
        if not count:
            return None
        locate(count, fault, lambda start, stop: self._searched(entry, start, stop), found)
        rest = np.delete(np.arange(count), [i for i, _ in found.poison])
        if not len(rest):
            return None
        answer = self._without_poison(entry, rest) if found.poison else None
        if answer is not None:
            return rest, answer
        self._counts["assembled"] += 1
        self._counts["trace_faults"] += entry.trace
        return None

    def _second_try(self, entry: _Pending) -> BatchAnswer | BatchFault:
        """The identical batch in a fresh process; then, if a trace was asked for, without it."""
        everything = slice(0, len(entry.batch))
        self._counts["retries"] += 1
        result = self._tried(entry, everything, trace=entry.trace)
        if isinstance(result, BatchAnswer):
            self._counts["flaky"] += 1
        elif entry.trace:
            result = self._tried(entry, everything, trace=False)
            self._counts["trace_faults"] += isinstance(result, BatchAnswer)
        return result

    def _without_poison(self, entry: _Pending, rest: Ints) -> BatchAnswer | None:
        """The rest of a batch, with its trace if it can be had."""
        self._counts["recomposed"] += 1
        for trace in dict.fromkeys([entry.trace, False]):
            result = self._tried(entry, rest, trace=trace)
            if isinstance(result, BatchAnswer):
                self._counts["trace_faults"] += entry.trace and not trace
                return result
        return None

    def _searched(self, entry: _Pending, start: int, stop: int) -> BatchAnswer | BatchFault:
        """One try of a search.

        A range gets less time than a batch when the leg knows how long its rows usually take: a hang
        is then found in seconds. A single request always gets the whole deadline before it is blamed.
        """
        timeout_s = None
        if stop - start > 1 and self._slowest_s_per_row and self._sandbox is not None:
            rows = int(entry.batch.rows[start:stop].sum())
            usual_s = _PATIENCE * rows * self._slowest_s_per_row
            timeout_s = min(self._sandbox.batch_deadline_s, max(_SHORTEST_DEADLINE_S, usual_s))
        return self._tried(entry, slice(start, stop), trace=False, timeout_s=timeout_s)

    def _tried(
        self,
        entry: _Pending,
        requests: Ints | slice,
        *,
        trace: bool,
        timeout_s: float | None = None,
    ) -> BatchAnswer | BatchFault:
        """Runs some requests of a batch alone, in a fresh process when the last has died."""
        sandbox = self._live()
        rows = entry.batch.rows
        chosen = np.zeros(len(rows), bool)
        chosen[requests] = True
        mask = np.repeat(chosen, rows)
        inputs = {name: array[mask] for name, array in entry.inputs.items()}
        sandbox.submit(inputs, int(rows[chosen].sum()), trace=trace)
        result = sandbox.collect(timeout_s)
        self._drop_dead()
        return result
