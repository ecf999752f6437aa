"""Both versions' answers to the same live requests, compared as `harness compare` compares outputs.

Scales come from the first answers of the baseline, as in a comparison. The baseline is not asked twice:
a second request would be load that production never sent. So what a nondeterministic baseline differs
from itself is not known here, and the tolerance is that of a quiet one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from harness.core.calls import Call
from harness.core.errors import SignatureError
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import Mapping
from harness.core.tensors import Bools, Ints, Signature, Strings, TensorSpec
from harness.diff.floor_builder import FloorBuilder
from harness.diff.outputs import OutputDiff
from harness.diff.reports import OutputReport
from harness.diff.signature import SignatureMatch, check_signatures
from harness.live.layouts import NO_LAYOUT, UNREADABLE, Answered, Decoded, Layouts, outcomes
from harness.live.values import observations, paired
from harness.wire.contents import objects_from_strings
from harness.wire.scan import MODEL_NAME, REQUEST_ID, bytes_field

_T = TypeVar("_T")
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

    parts: tuple[tuple[Ints, PairBatch], ...]
    """(which of the n requests, both versions' answers): one part for each pair of layouts."""
    ok: tuple[Bools, Bools]
    """Whether baseline and candidate answered, shape (n,) each."""
    mismatch: Bools
    """Both answered and an output differs, shape (n,)."""
    compared: Bools
    """Everything that counts was compared, shape (n,)."""
    left_out: Bools
    """Both answered in a form that is not compared, shape (n,)."""

    def disagrees(self) -> Bools:
        """Which requests the versions answer differently: other values, or only one answers."""
        return np.asarray(self.mismatch | (self.ok[0] != self.ok[1]))


class LiveDiff:
    """Compares batch after batch; the first ones wait until the scales are known.

    Answers are compared with those of the same pair of layouts; another pair later on takes its
    scales from the answers of the batch in which it is seen first.
    """

    def __init__(self) -> None:
        self._layouts = (Layouts(), Layouts())
        self._diffs: dict[tuple[int, int], OutputDiff] = {}
        self._unlike = ""
        self.both_failed = 0
        """Requests that neither version answers."""
        self.baseline_failed = 0
        """Requests that only the candidate answers."""
        self.candidate_failed = 0
        """Requests that only the baseline answers, or that the candidate answers in another form."""
        self.left_out = 0
        """Requests that both answer, in a form that is not compared."""
        self.misnamed = 0
        """Answers under another id or model name than the other version's, taken for failures."""

    @property
    def ready(self) -> bool:
        """Whether scales are known; before, give `FIRST` requests at once, or all there are."""
        return bool(self._diffs)

    def update(self, mirrored: Sequence[Mirrored]) -> Diffed:
        """Compares n requests.

        Args:
          mirrored: in any order; the first call's baseline answers fix the scales.
        """
        n = len(mirrored)
        both = (
            [Answered(m.call.response, m.call.code, m.call.latency_ns / 1e9) for m in mirrored],
            [m.candidate for m in mirrored],
        )
        answers = (self._layouts[0].sort(both[0]), self._layouts[1].sort(both[1]))
        layout = (answers[0].layout, answers[1].layout)
        self._refuse_misnamed(mirrored, layout)
        ok = (layout[0] >= NO_LAYOUT, layout[1] >= NO_LAYOUT)
        have = (layout[0] >= 0) & (layout[1] >= 0)
        left_out = ok[0] & ok[1] & ~have
        mismatch, compared = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        parts: list[tuple[Ints, PairBatch]] = []
        found = np.stack([layout[0][have], layout[1][have]], axis=1)
        for key in [(int(a), int(b)) for a, b in np.unique(found, axis=0)]:
            at = np.flatnonzero((layout[0] == key[0]) & (layout[1] == key[1]))
            decoded = [
                side.decoded[number].only(at) for side, number in zip(answers, key, strict=True)
            ]
            pair = self._paired(key, (decoded[0], decoded[1]), both)
            ok[1][at] = pair.candidate.outcome == Outcome.OK
            if key in self._diffs:
                differing = self._diffs[key].update(pair)
                mismatch[at], compared[at] = differing.mismatch, differing.compared
            parts.append((at, pair))
        rest = np.flatnonzero(~have)
        if len(rest):
            parts.append((rest, self._without_outputs(layout[0][rest], layout[1][rest])))
        self.both_failed += int(np.count_nonzero(~ok[0] & ~ok[1]))
        self.baseline_failed += int(np.count_nonzero(~ok[0] & ok[1]))
        self.candidate_failed += int(np.count_nonzero(ok[0] & ~ok[1]))
        self.left_out += int(np.count_nonzero(left_out))
        ids = objects_from_strings([id_of(m.call) for m in mirrored])
        return Diffed(
            parts=tuple((at, _named(pair, ids[at])) for at, pair in parts),
            ok=ok,
            mismatch=mismatch,
            compared=compared,
            left_out=left_out,
        )

    def finish(self) -> OutputReport | None:
        """The report so far; None where no request was answered by both."""
        found = [diff.finish() for diff in self._diffs.values()]
        if not found:
            return None
        return OutputReport(
            outputs=tuple(column for report in found for column in report.outputs),
            requests=sum(report.requests for report in found),
            without_rows=sum(report.without_rows for report in found),
            mismatched_requests=sum(report.mismatched_requests for report in found),
            extra_outputs=_once(name for report in found for name in report.extra_outputs),
            not_compared=_once(note for report in found for note in report.not_compared),
            one_sided_classes=_once(c for report in found for c in report.one_sided_classes),
            unproven=_once(column for report in found for column in report.unproven),
            reshaped=_once(column for report in found for column in report.reshaped),
        )

    @property
    def unlike(self) -> str:
        """Why answers of the candidate have another form than the baseline's; "" where they fit."""
        return self._unlike

    def _paired(
        self,
        key: tuple[int, int],
        decoded: tuple[Decoded, Decoded],
        both: tuple[Sequence[Answered], Sequence[Answered]],
    ) -> PairBatch:
        """Both answers of the same requests, all of the same two layouts."""
        baseline, candidate = (
            observations(side, answers) for side, answers in zip(decoded, both, strict=True)
        )
        rows, theirs = decoded[0].rows, decoded[1].rows
        match = self._match(decoded[0].specs, decoded[1].specs)
        # Another form, or another number of rows, is no answer to the same request.
        wrong = (rows != theirs) | (match is None)
        candidate, theirs = _invalid(candidate, wrong, theirs)
        pair = paired(_only(baseline, ~wrong, rows), _only(candidate, ~wrong, theirs),
                      np.where(wrong, 0, rows))  # fmt: skip
        if match is not None and key not in self._diffs and rows[~wrong].any():
            # Answers of services: nobody knows what arithmetic was before their float64.
            coarse = [ours for ours, _ in match.outputs]
            floor = FloorBuilder(coarse=coarse)
            floor.update(replace(pair, candidate=pair.baseline))
            self._diffs[key] = OutputDiff(match, floor.finish(), (), coarse)
        return pair

    def _refuse_misnamed(self, mirrored: Sequence[Mirrored], layout: tuple[Ints, Ints]) -> None:
        """Takes an answer under another name than the other version's for one to another request.

        Servers that leave the id out are compared as they are, where both do.
        """
        for i in np.flatnonzero((layout[0] >= NO_LAYOUT) & (layout[1] >= NO_LAYOUT)).tolist():
            one = mirrored[i]
            old, new = _named_as(one.call.response), _named_as(one.candidate.response)
            if old != new:
                # Whoever has not the request's name is wrong; the baseline only where it alone is.
                wrong = 0 if new == _named_as(one.call.request) else 1
                layout[wrong][i] = UNREADABLE
                self.misnamed += 1

    def _without_outputs(self, old: Ints, new: Ints) -> PairBatch:
        """Requests of which there is nothing to compare, with the columns that others have."""
        observed = []
        for side, layout in zip(self._layouts, (old, new), strict=True):
            nothing = observations(side.nothing(), [])
            unknown = np.full(len(layout), np.nan)
            observed.append(replace(nothing, outcome=outcomes(layout), latency_s=unknown))
        return paired(observed[0], observed[1], np.zeros(len(old), np.int64))

    def _match(
        self, old: tuple[TensorSpec, ...], new: tuple[TensorSpec, ...]
    ) -> SignatureMatch | None:
        """How the candidate's outputs stand for the baseline's; None where they do not."""
        sides = (Signature(inputs=(), outputs=old), Signature(inputs=(), outputs=new))
        try:
            return check_signatures(*sides, Mapping())
        except SignatureError as problem:
            self._unlike = problem.what
            return None


def _once(found: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(found))


def _named_as(message: bytes) -> tuple[bytes, bytes]:
    """(id, model name) of a request or an answer."""
    return bytes_field(message, REQUEST_ID) or b"", bytes_field(message, MODEL_NAME) or b""


def _named(pair: PairBatch, ids: Strings) -> PairBatch:
    return replace(pair, requests=replace(pair.requests, request_id=ids))


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
