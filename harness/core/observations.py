"""What came back: one leg's observations, and the pair that travels replay → diff → judge."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from harness.core.tensors import Array, Bools, Floats, Ints, Tensors
from harness.core.traffic import RequestBatch


class Outcome(enum.IntEnum):
    """How one request ended in one leg."""

    OK = 0
    """Answered with tensors of the declared shape."""
    ERROR = 1
    """The runtime raised; the process lives on."""
    CRASH = 2
    """The process died on it, twice."""
    TIMEOUT = 3
    """No answer within the batch deadline, twice."""
    INVALID = 4
    """The answer broke the protocol or had another shape or number of rows."""
    NOT_RUN = 5
    """Never given to the model: the leg had ended before."""


class Cause(enum.StrEnum):
    """What is known of why a request has no answer, beyond its outcome."""

    UNKNOWN = ""
    """Nothing more."""
    MEMORY_LIMIT = "memory_limit"
    """It needed more memory than the policy gives a leg."""
    SPINNING = "spinning"
    """It computed until the deadline passed."""
    BLOCKED = "blocked"
    """It waited until the deadline passed for something that did not come."""
    HOST_STARVED = "host_starved"
    """The host gave it no processor: nothing is known about the model."""


Outcomes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """One leg's answers to a RequestBatch of n requests and R rows."""

    outcome: Outcomes
    """`Outcome` per request, shape (n,)."""
    outputs: Tensors
    """Verdict session's outputs, shape (R, *trailing); rows of failed requests are filler that says nothing.

    A ZipMap output is a float64 matrix (R, classes) whose columns `keys` names; a sequence or an optional
    is a `Nested`, the same in every row of its request.
    """
    features: Tensors
    """Trace session's named tensors, shape (R, *trailing); empty when no trace was asked for."""
    trace_outputs: Tensors
    """The trace session's outputs, for the observer-effect guard; empty without a trace."""
    latency_s: npt.NDArray[np.float64]
    """Share of its batch's service time by the parent's clock, shape (n,); never a single-request latency.

    NaN for requests without an answer.
    """
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Class names of ZipMap outputs, in column order."""
    messages: tuple[tuple[int, str], ...] = ()
    """(index in batch, message) for failed requests."""
    short: tuple[int, ...] = ()
    """Indices in batch of requests that needed more memory than a leg is given, ascending."""
    uneven: tuple[str, ...] = ()
    """Features that the trace returned in several shapes for the requests of this batch, or in so wide rows that
    those of failed requests would take too much memory: no array holds them all, so `features` leaves them out."""
    forms: dict[str, tuple[tuple[int, Array], ...]] = field(default_factory=dict)
    """Outputs that requests of this batch, run apart, got in several shapes, or in so wide rows that those of
    failed requests would take too much memory: no array holds them all, so `outputs` leaves them out. For
    consecutive requests: how many they are, and their rows, (rows, *trailing)."""
    alone: bool = False
    """The trace session answered alone: `outputs` are its own, and `trace_outputs` is empty."""

    def refused(self) -> Bools:
        """Requests that the runtime itself refuses, shape (n,).

        Not those whose answer cannot be compared, which production serves, nor those that the harness's own
        limits end: such a request may be as good as any.
        """
        refused = np.asarray(self.outcome == Outcome.ERROR)
        refused[list(self.short)] = False
        return refused


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """The same requests through both versions."""

    requests: RequestBatch
    """What was asked, in test order."""
    baseline: Observations
    """What the old version did."""
    candidate: Observations
    """What the new version did."""
    anchor: Observations | None = None
    """What the lineage's anchor did; None where no guardrail asks."""

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.requests)

    def row_owner(self) -> npt.NDArray[np.int64]:
        """Index of the request that owns each model row, shape (R,)."""
        return self.requests.row_owner()

    def both_answered(self) -> Bools:
        """Which requests both versions answered, shape (n,)."""
        return np.asarray(
            (self.baseline.outcome == Outcome.OK) & (self.candidate.outcome == Outcome.OK)
        )

    def both_refused(self) -> Bools:
        """Which requests both versions' runtimes refuse, shape (n,): they may be the traffic's own fault."""
        return self.baseline.refused() & self.candidate.refused()


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySample:
    """Single-request service times of both versions, measured pair by pair on one core."""

    positions: Ints
    """Storage positions in the sealed window, in the order measured, shape (n,)."""
    baseline_s: Floats
    """Seconds by the parent's clock, shape (n,); NaN = failed."""
    candidate_s: Floats
    """The same requests through the candidate, shape (n,); NaN = failed."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.positions)
