"""Latency of single requests: both versions on one core, in turn, in an order drawn per pair.

A replay in batches says how much work a version is, not how long one request waits for it. Here each
request goes alone through one version and at once through the other; a fresh coin says which is
first, so that what the first leaves behind (warm caches, a busy moment) favours neither. Both processes
are held on the same core where the system allows it, and the parent's clock is the only one that is
read. The first calls of every process are cold: they are made, and not counted.

A request that the host gave no processor for is left out, with its pair, and counted; one that a version
fails is NaN on its side. One that is known to cost a process by itself is not asked: what it leaves behind would be
in the way of others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.core.observations import Cause, LatencySample
from harness.core.tensors import Bools, Feeds, Floats, Ints
from harness.core.traffic import RequestBatch
from harness.replay.blamed import Blamed
from harness.replay.composition import rows_of
from harness.replay.inputs import inputs_for_version
from harness.replay.looks import Look, look_of
from harness.replay.order import generator
from harness.replay.unanswered import Ledger
from harness.sandbox.answers import BatchAnswer, BatchFault
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

COLD_CALLS = 32
"""Calls of a fresh process that are not counted."""
_BY = "latency sample"
_MAX_RESTARTS = 5
_NO_CORE = -1

Opener = Callable[[], Sandbox | LoadFailure]
"""Starts a process with a version loaded, or says why it cannot."""


@dataclass(slots=True, kw_only=True)
class LatencyLog:
    """How a measurement went; filled while it runs."""

    pairs: int = 0
    """Pairs measured."""
    cold: int = 0
    """Calls of fresh processes that were made and not counted, both versions together."""
    core: int = _NO_CORE
    """The core that both processes were held on; −1 = the system did not allow it."""
    host_starved: int = 0
    """Pairs left out because the host gave a process no processor."""
    restarts: int = 0
    """Processes started after the first two."""
    ended: str = ""
    """Why there were no more pairs before the sample was used up; "" = it was."""

    def words(self) -> str:
        """One sentence for the report."""
        where = f"on core {self.core}" if self.core != _NO_CORE else "not held on one core"
        parts = [f"{self.pairs:,} requests measured singly, both versions {where}",
                 f"{self.cold} cold calls kept out"]  # fmt: skip
        if self.host_starved:
            parts.append(f"{self.host_starved} left out as the host gave no processor")
        if self.ended:
            parts.append(f"ended early: {self.ended}")
        return "; ".join(parts)


def measure_latency(
    baseline: Opener,
    candidate: Opener,
    batches: Iterable[tuple[Ints, RequestBatch]],
    *,
    seed: int,
    input_names: Sequence[tuple[str, str]] = (),
    log: LatencyLog | None = None,
    ledger: Ledger | None = None,
    blamed: tuple[Blamed, Blamed] | None = None,
) -> Iterator[LatencySample]:
    """Measures both versions request by request.

    Args:
      baseline: starts the old version; the process is this function's own and ends with it.
      candidate: starts the new version.
      batches: (storage positions, their requests), read lazily.
      seed: the run's; the order within each pair is drawn from it.
      input_names: (name in the traffic, the candidate's name) for inputs that are called otherwise.
      log: says afterwards how it went.
      ledger: takes what the candidate does not answer.
      blamed: what each version is known to fail.

    Yields:
      One sample a batch: its pairs in order.

    Raises:
      SignatureError: the traffic lacks an input of a version.
    """
    log = log if log is not None else LatencyLog()
    coin = generator(seed, "latency/order")
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _NO_CORE
    known = blamed or (Blamed(), Blamed())
    sides = (
        _Side(
            open_sandbox=baseline, name="baseline", columns={}, core=core, log=log, blamed=known[0]
        ),
        _Side(
            open_sandbox=candidate,
            name="candidate",
            columns={own: traffic for traffic, own in input_names},
            core=core,
            log=log,
            ledger=ledger,
            blamed=known[1],
        ),
    )
    try:
        for positions, requests in batches:
            for side in sides:
                side.take(requests)
            seconds, kept = _pairs(sides, coin.random(len(requests)) < 0.5, log)  # noqa: PLR2004 - a coin
            yield LatencySample(
                positions=positions[kept],
                baseline_s=seconds[kept, 0],
                candidate_s=seconds[kept, 1],
            )
            if log.ended:
                return
    finally:
        for side in sides:
            side.close()


def _pairs(
    sides: tuple[_Side, _Side], candidate_first: Bools, log: LatencyLog
) -> tuple[Floats, Bools]:
    """Seconds per request, shape (n, 2), and which pairs are whole, shape (n,)."""
    seconds: Floats = np.full((len(candidate_first), 2), np.nan)
    kept: Bools = np.zeros(len(candidate_first), np.bool_)
    for i, swapped in enumerate(candidate_first):
        # A version that died is started, and made warm, before the pair, not within it.
        if not all(side.ready() for side in sides):
            break
        order = (1, 0) if swapped else (0, 1)
        causes = [sides[k].measured(i, seconds[i, k : k + 1]) for k in order]
        sides[1].held_against(sides[0], i)
        starved = Cause.HOST_STARVED in causes
        log.host_starved += starved
        kept[i] = not starved
        log.pairs += not starved
    return seconds, kept


@dataclass(slots=True, kw_only=True)
class _Side:
    """One version's process, one request at a time."""

    open_sandbox: Opener
    name: str
    columns: dict[str, str]
    core: int
    log: LatencyLog
    blamed: Blamed
    ledger: Ledger | None = None
    _known: dict[int, BatchFault] = field(default_factory=dict)
    look: Look | None = None
    """Of its last answer; None = there was none."""
    _sandbox: Sandbox | None = None
    _starts: int = 0
    _batch: RequestBatch | None = None
    _inputs: Feeds = field(default_factory=dict)
    _offsets: Ints = field(default_factory=lambda: np.zeros(1, np.int64))

    def take(self, batch: RequestBatch) -> None:
        """The requests that follow."""
        self._batch = batch
        self._known = self.blamed.among(batch)
        self._offsets = np.concatenate([[0], np.cumsum(batch.rows)])
        if self._sandbox is not None:
            self._bind(self._sandbox)

    def ready(self) -> bool:
        """Has a warm process; says in the log why there is none any more."""
        if self._sandbox is not None and self._sandbox.alive:
            return True
        self.close()
        if self._starts > _MAX_RESTARTS:
            self.log.ended = f"the {self.name}'s process had to be restarted {_MAX_RESTARTS} times"
            return False
        self.log.restarts += self._starts > 0
        self._starts += 1
        opened = self.open_sandbox()
        if isinstance(opened, LoadFailure):
            self.log.ended = f"the {self.name} could not be started: {opened.message}"
            return False
        self._sandbox = opened
        self._bind(opened)
        self.log.core = self.core if _held(opened.pid, self.core) else _NO_CORE
        for i in range(COLD_CALLS):
            if not opened.alive:
                break
            self.log.cold += 1
            self.measured(i % max(len(self._offsets) - 1, 1), np.empty(1))
        return True

    def measured(self, index: int, seconds: Floats) -> Cause:
        """Runs one request alone.

        Args:
          index: in the batch.
          seconds: where its time goes, shape (1,); left as it is when there is no answer.
        """
        sandbox, self.look = self._sandbox, None
        if sandbox is None or not sandbox.alive or index in self._known:
            return Cause.UNKNOWN  # died while it was made warm, or is not asked: no answer from it
        first, last = int(self._offsets[index]), int(self._offsets[index + 1])
        inputs = {name: array[first:last] for name, array in self._inputs.items()}
        sandbox.submit(inputs, last - first, trace=False)
        answer = sandbox.collect()
        if isinstance(answer, BatchAnswer):
            seconds[0] = answer.service_s
            self.look = look_of(answer)
            return Cause.UNKNOWN
        if self.ledger is not None and self._batch is not None:
            asked = rows_of(self._batch, index, index + 1)
            self.ledger.add(asked, answer.kind, answer.cause, answer.message, by=_BY)
        return answer.cause

    def held_against(self, other: _Side, index: int) -> None:
        """Writes the request down that both have just answered, where this side's answer is a failure beside it."""
        if self.ledger is None or self._batch is None or self.look is None or other.look is None:
            return
        # Nearly always there is nothing to say, and a request is not cut out for it.
        if self.look.nan or self.look.shapes != other.look.shapes:
            asked = rows_of(self._batch, index, index + 1)
            self.ledger.hold(asked, self.look, other.look, by=_BY)

    def close(self) -> None:
        """Ends the process."""
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def _bind(self, sandbox: Sandbox) -> None:
        if self._batch is not None:
            self._inputs = inputs_for_version(
                self._batch, sandbox.signature, self.columns, self.name
            )


def _held(pid: int, core: int) -> bool:
    """Holds a process on a core; whether the system did it."""
    if core == _NO_CORE:
        return False
    try:
        os.sched_setaffinity(pid, {core})
        return os.sched_getaffinity(pid) == {core}
    except OSError:
        return False
