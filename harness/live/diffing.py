"""Both versions' answers to the same live requests, compared as `harness compare` compares outputs.

Scales come from the first answers of the baseline, as in a comparison. The baseline is not asked twice:
a second request would be load that production never sent. So what a nondeterministic baseline differs
from itself is not known here, and the tolerance is that of a quiet one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.calls import Call
from harness.core.errors import SignatureError
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import Mapping
from harness.core.tensors import Bools, Ints, Signature
from harness.diff.floor import FloorBuilder
from harness.diff.outputs import OutputDiff
from harness.diff.reports import OutputReport
from harness.diff.signature import check_signatures
from harness.live.values import Answered, observations, paired
from harness.wire.columns import ColumnDecoder
from harness.wire.contents import objects_from_strings
from harness.wire.scan import REQUEST_ID, bytes_field

FIRST = 256
"""Requests that fix the scales of all columns."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One request with both versions' answers."""

    call: Call
    """As production answered it."""
    candidate: Answered
    """Out of band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffed:
    """n mirrored requests, compared."""

    pair: PairBatch
    """Both versions' answers."""
    mismatch: Bools
    """Both answered and an output differs, shape (n,)."""
    compared: Bools
    """Everything that counts was compared, shape (n,)."""

    def disagrees(self) -> Bools:
        """Which requests the versions answer differently: other values, or only one answers."""
        ok = self.pair.baseline.outcome == Outcome.OK
        return np.asarray(self.mismatch | (ok != (self.pair.candidate.outcome == Outcome.OK)))


class LiveDiff:
    """Compares batch after batch; the first ones wait until the scales are known."""

    def __init__(self) -> None:
        self._decoders = (ColumnDecoder("response"), ColumnDecoder("response"))
        self._specs: list[Signature | None] = [None, None]
        self._outputs: OutputDiff | None = None
        self._unlike = ""
        self.both_failed = 0
        """Requests that neither version answers."""
        self.baseline_failed = 0
        """Requests that only the candidate answers."""
        self.candidate_failed = 0
        """Requests that only the baseline answers."""

    @property
    def ready(self) -> bool:
        """Whether scales are known; before, give `FIRST` requests at once, or all there are."""
        return self._outputs is not None

    def update(self, mirrored: Sequence[Mirrored]) -> Diffed:
        """Compares n requests.

        Args:
          mirrored: in any order; the first call's baseline answers fix the scales.
        """
        pair = self._paired(mirrored)
        if self._outputs is None:
            self._outputs = self._begun(pair)
        ok = (pair.baseline.outcome == Outcome.OK, pair.candidate.outcome == Outcome.OK)
        self.both_failed += int(np.count_nonzero(~ok[0] & ~ok[1]))
        self.baseline_failed += int(np.count_nonzero(~ok[0] & ok[1]))
        self.candidate_failed += int(np.count_nonzero(ok[0] & ~ok[1]))
        if self._outputs is None:
            nothing = np.zeros(len(mirrored), np.bool_)
            return Diffed(pair=pair, mismatch=nothing, compared=nothing)
        found = self._outputs.update(pair)
        return Diffed(pair=pair, mismatch=found.mismatch, compared=found.compared)

    def finish(self) -> OutputReport | None:
        """The report so far; None where no request was answered by both."""
        return None if self._outputs is None else self._outputs.finish()

    @property
    def unlike(self) -> str:
        """Why the candidate's answers have another form than the baseline's; "" where they fit."""
        return self._unlike

    def _paired(self, mirrored: Sequence[Mirrored]) -> PairBatch:
        old = [Answered(m.call.response, m.call.code, m.call.latency_ns / 1e9) for m in mirrored]
        new = [m.candidate for m in mirrored]
        sides = [self._observed(side, answers) for side, answers in ((0, old), (1, new))]
        (baseline, rows), (candidate, theirs) = sides
        if not self._fit():
            candidate, theirs = _invalid(candidate, np.ones(len(rows), np.bool_), theirs)
        both = (baseline.outcome == Outcome.OK) & (candidate.outcome == Outcome.OK)
        # Another number of rows is no answer to the same request.
        candidate, theirs = _invalid(candidate, both & (rows != theirs), theirs)
        both = both & (rows == theirs)
        pair = paired(_only(baseline, both, rows), _only(candidate, both, theirs),
                      np.where(both, rows, 0))  # fmt: skip
        ids = objects_from_strings([id_of(m.call) for m in mirrored])
        return replace(pair, requests=replace(pair.requests, request_id=ids))

    def _observed(self, side: int, answers: Sequence[Answered]) -> tuple[Observations, Ints]:
        observed, rows, specs = observations(self._decoders[side], answers)
        if self._specs[side] is None and specs:
            self._specs[side] = Signature(inputs=(), outputs=specs)
        return observed, rows

    def _fit(self) -> bool:
        """Whether the candidate's outputs are those of the baseline, as far as both are known."""
        old, new = self._specs
        if old is None or new is None:
            return True
        try:
            check_signatures(old, new, Mapping())
        except SignatureError as problem:
            self._unlike = problem.what
            return False
        return True

    def _begun(self, pair: PairBatch) -> OutputDiff | None:
        old, new = self._specs
        if old is None or new is None or self._unlike:
            return None
        floor = FloorBuilder()
        floor.update(replace(pair, candidate=pair.baseline))
        return OutputDiff(check_signatures(old, new, Mapping()), floor.finish())


def id_of(call: Call) -> str:
    """The request's id; its arrival where it has none."""
    found = bytes_field(call.request, REQUEST_ID)
    return found.decode("utf-8", "replace") if found else str(call.ts_ns)


def _invalid(observed: Observations, at: Bools, rows: Ints) -> tuple[Observations, Ints]:
    """Takes answers for invalid; their rows are gone."""
    wrong = at & (observed.outcome == Outcome.OK)
    outcome = np.where(wrong, np.int8(Outcome.INVALID), observed.outcome)
    kept = np.repeat(~wrong, rows)
    outputs = {name: tensor[kept] for name, tensor in observed.outputs.items()}
    latency = np.where(wrong, np.nan, observed.latency_s)
    left = np.where(wrong, 0, rows)
    return replace(observed, outcome=outcome, outputs=outputs, latency_s=latency), left


def _only(observed: Observations, at: Bools, rows: Ints) -> Observations:
    """The tensors' rows of some requests; outcomes stay."""
    kept = np.repeat(at, rows)
    return replace(observed, outputs={n: tensor[kept] for n, tensor in observed.outputs.items()})
