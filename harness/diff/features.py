"""The features of both versions: what the models computed before they scored.

Features computed from raw fields must agree; a difference is a mismatch of the request unless the
policy expects it. Tensors after fitted constants change with every retrain: they are compared,
named and reported, never counted. So do vocabularies: a code for a word that the baseline does not know,
in a vocabulary that has the baseline's words where they were and more after them, is a refit.

A raw feature of the baseline that the candidate does not declare, that one side's trace does not
return, or that is there only now and then, is no parity: the requests without it are `compared`
False. (Asking only whether any feature was left let a planted fault through, once its tensor was
taken out of the candidate's metadata or renamed in its graph.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.core.models import ModelGraph
from harness.core.observations import Outcome, PairBatch
from harness.core.policies import Mapping as NameMapping
from harness.core.tensors import Array, Bools
from harness.diff.absences import Absences
from harness.diff.any_size import any_size
from harness.diff.columns import Alike, ComparedRows, column_name, compared_rows
from harness.diff.feature_match import match_features
from harness.diff.fitted import explained_columns
from harness.diff.floor import Floor
from harness.diff.handed_on import handed_on_by_both
from harness.diff.measures import floors_by_column
from harness.diff.other_rows import asked_further
from harness.diff.pairs import Vocabularies
from harness.diff.refit_words import gained, without_gained
from harness.diff.refits import refits
from harness.diff.reports import (
    FeatureReport,
    Follow,
    ParityVerdict,
    RequestMismatch,
    TensorReport,
    by_random,
    not_compared,
    sentences_about_uncompared,
)
from harness.diff.roots import Differing, follows
from harness.diff.row_order import RowOrder
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes
from harness.diff.swaps import in_another_order
from harness.diff.tally import TensorTally

RAW = "raw"
FITTED = "fitted"
INPUT = "input"
ONLY_BASELINE = "only the baseline declares it"
ONLY_CANDIDATE = "only the candidate declares it"


def only_fitted(baseline: ModelGraph, candidate: ModelGraph) -> frozenset[str]:
    """Tensors that are declared fitted by a version and a feature by none."""
    fitted = {*baseline.fitted, *candidate.fitted}
    return frozenset(fitted - {*baseline.features, *candidate.features})


class FeatureDiff:
    """Compares features batch by batch in test order; batch boundaries do not matter.

    Args:
      floor: tolerance and scale per column.
      baseline_graph: what the baseline declares.
      candidate_graph: what the candidate declares.
      expected_changes: features or columns that are meant to change; reported, not counted.
      mapping: names that differ between the versions.
      proven: the baseline's features that no trace returns, and that are known to be equal → why.
    """

    def __init__(
        self,
        floor: Floor,
        baseline_graph: ModelGraph,
        candidate_graph: ModelGraph,
        expected_changes: Collection[str] = (),
        mapping: NameMapping | None = None,
        *,
        proven: Mapping[str, str] | None = None,
    ) -> None:
        match = match_features(baseline_graph, candidate_graph, mapping or NameMapping())
        random = dict(floor.random)
        self._proven = dict(proven or {})
        self.match = replace(
            match,
            raw=tuple(p for p in match.raw if p[0] not in random and p[0] not in self._proven),
            fitted=tuple(pair for pair in match.fitted if pair[0] not in random),
        )
        self._random = {a: (RAW, random[a]) for a, _ in match.raw if a in random}
        self._random |= {a: (FITTED, random[a]) for a, _ in match.fitted if a in random}
        floors = floors_by_column(floor.features)
        coarse = baseline_graph.coarse
        both = (*self.match.raw, *self.match.fitted)
        moved = handed_on_by_both(baseline_graph, candidate_graph, both)
        self._raw = [
            (
                b,
                TensorTally(
                    a, RAW, floors, expected_changes,
                    coarse=a in coarse, moved=a in moved, alike=Alike.COLUMN,
                ),
            )
            for a, b in self.match.raw
        ]  # fmt: skip
        self._fitted = [
            (
                b,
                TensorTally(
                    a, FITTED, floors, (), coarse=a in coarse, moved=a in moved, alike=Alike.COLUMN
                ),
            )
            for a, b in self.match.fitted
        ]
        self._inputs: dict[str, TensorTally] = {}
        self._only_fitted = only_fitted(baseline_graph, candidate_graph)
        self._expected = tuple(expected_changes)
        self._words = (dict(baseline_graph.vocabularies), dict(candidate_graph.vocabularies))
        self._gained = {
            ours: more
            for ours, theirs in self.match.raw
            if (more := gained(self._words[0].get(ours), self._words[1].get(theirs)))
        }
        counts = [name not in expected_changes for name, _ in self.match.raw]
        self._counts: Bools = np.array(counts, dtype=np.bool_)
        self._absences = Absences((*self.match.raw, *self.match.fitted))
        self._answered = 0
        self._requests = 0
        self._whole = 0
        self._mismatched = 0
        self._order = RowOrder()
        self._saved: State | None = None
        """The state, as long as no batch came after it: most come without features."""

    @property
    def counts(self) -> bool:
        """Whether a difference of any raw feature would count: one is declared by both, and may not change."""
        return bool(self._counts.any())

    @any_size
    def update(self, pair: PairBatch) -> RequestMismatch:
        """Compares one batch; returns which of its n requests have a differing raw feature."""
        self._saved = None
        before, after = pair.baseline, pair.candidate
        ok: Bools = np.asarray((before.outcome == Outcome.OK) & (after.outcome == Outcome.OK))
        mismatch = np.zeros(len(pair), dtype=np.bool_)
        if not ok.any():
            return RequestMismatch(mismatch=mismatch, compared=np.zeros_like(ok))
        self._answered += int(ok.sum())
        missing = self._absences.note(before, after, int(ok.sum()))
        there = not missing[: len(self._counts)][self._counts].any()
        whole = there and not self._without_partner() and not self._by_chance()
        nothing = not (before.features and after.features)
        if nothing and (self._raw or not self._proven):
            return RequestMismatch(mismatch=mismatch, compared=np.zeros_like(ok))
        view = compared_rows(pair.requests, ok)
        self._order.note(pair.requests.seq, view)
        for theirs, tally in (*self._raw, *self._fitted):
            ours, other = before.features.get(tally.name), after.features.get(theirs)
            if ours is None or other is None:
                continue
            if tally.name in self._gained:
                other = without_gained(ours, other, self._gained[tally.name])
            marked = tally.update(ours, other, view)
            if marked is not None and tally.kind == RAW:
                mismatch |= marked
        self._note_inputs(pair.requests.inputs, view)
        self._requests += int(ok.sum())
        self._mismatched += int(mismatch.sum())
        self._whole += int(ok.sum()) if whole else 0
        return RequestMismatch(mismatch=mismatch, compared=ok if whole else np.zeros_like(ok))

    def _note_inputs(self, inputs: Mapping[str, Array], view: ComparedRows) -> None:
        """Keeps the beginning of inputs of one column: a feature may hold one, or a scaler act on one."""
        declared = {name for name, _ in self.match.raw}
        for name, values in inputs.items():
            column = values.ndim == 1 or values.shape[1:] == (1,)
            if column and name not in declared:
                tally = self._inputs.setdefault(name, TensorTally(name, INPUT, {}, ()))
                if tally.sample.wants_more():
                    tally.update(values, values, view)

    @any_size
    def finish(self) -> FeatureReport:
        """The report so far."""
        raw = {tally.name: self._raw_reports(theirs, tally) for theirs, tally in self._raw}
        found = follows(self._differing(raw))
        marks = {f.name: f for f in found}
        features = [_marked(r, marks.get(name)) for name, rs in raw.items() for r in rs]
        fitted = explained_columns(
            [tally for _, tally in self._fitted if tally.rows],
            [tally for _, tally in self._raw],
            {
                name: frozenset(r.relation for r in reports if r.mismatched_requests)
                for name, reports in raw.items()
                if any(r.mismatched_requests for r in reports)
            },
            list(self._inputs.values()),
        )
        fitted += [
            not_compared(tally.name, FITTED, self._absences.why(tally.name))
            for _, tally in self._fitted
            if not tally.rows
        ]
        alone = self._one_sided()
        differing = [n for n, rs in raw.items() if _any(rs, ParityVerdict.DIFFERS)]
        reports = (*features, *fitted, *alone)
        constants = refits(
            [tally for _, tally in self._fitted],
            [*(tally for _, tally in self._raw), *self._inputs.values()],
            self.match.raw,
            self._words,
        )
        return FeatureReport(
            features=reports,
            requests=self._requests,
            whole_requests=self._whole,
            mismatched_requests=self._mismatched,
            roots=tuple(n for n in differing if n not in marks),
            follows=tuple(f for f in found if f.name in differing),
            not_compared=(*sentences_about_uncompared(reports), *self._partly()),
            partly=self._partly(),
            uneven=tuple(
                tally.name
                for _, tally in (*self._raw, *self._fitted)
                if self._absences.uneven(tally.name)
            ),
            unknown_expected=self._unknown(reports),
            unproven=self._unproven(),
            reshaped=tuple(
                (tally.name, tally.reshaped) for _, tally in self._raw if tally.reshaped
            ),
            retyped=tuple((tally.name, tally.retyped) for _, tally in self._raw if tally.retyped),
            refits=constants.constants,
            unread=constants.unread,
        )

    def _raw_reports(self, theirs: str, tally: TensorTally) -> list[TensorReport]:
        if tally.rows == 0:
            return [not_compared(tally.name, RAW, self._absences.why(tally.name))]
        vocabularies: Vocabularies = (self._words[0].get(tally.name), self._words[1].get(theirs))
        others = [*(t for _, t in self._raw), *self._inputs.values()]
        further = asked_further(tally, self._order, others)
        return in_another_order(tally, tally.reports(vocabularies, further))

    def _differing(self, raw: Mapping[str, Sequence[TensorReport]]) -> list[Differing]:
        by_name = {tally.name: tally for _, tally in self._raw}
        found = []
        for name, reports in raw.items():
            if by_name[name].flat and reports[0].mismatched_requests:
                before, after = by_name[name].sample.prefix(0)
                found.append(
                    Differing(
                        name=name, baseline=before, candidate=after, relation=reports[0].relation
                    )
                )
        return found

    def _without_partner(self) -> list[str]:
        """Raw features that only the baseline declares, and that are not expected to change."""
        return [
            name
            for name in self.match.baseline_only
            if name not in self._only_fitted and name not in self._expected
        ]

    def _unproven(self) -> tuple[tuple[str, str], ...]:
        alone = [(name, ONLY_BASELINE) for name in self._without_partner()]
        alone += self._by_chance()
        lost = [
            (tally.name, self._absences.why(tally.name))
            for (_, tally), counts in zip(self._raw, self._counts, strict=True)
            if counts and tally.rows == 0 and self._answered
        ]
        small = [column for _, tally in self._raw for column in tally.small_columns()]
        return (*alone, *lost, *small)

    def _by_chance(self) -> list[tuple[str, str]]:
        """(raw feature, why) of those that a random operator is before, and that are not expected to change."""
        return [
            (name, by_random(why))
            for name, (kind, why) in self._random.items()
            if kind == RAW and name not in self._expected
        ]

    def _partly(self) -> tuple[str, ...]:
        """Sentences about features that were compared, and that some requests lack."""
        return tuple(
            f"{'feature' if tally.kind == RAW else 'fitted tensor'} {said}"
            for _, tally in (*self._raw, *self._fitted)
            if tally.rows and (said := self._absences.partly(tally.name, self._answered))
        )

    def _one_sided(self) -> list[TensorReport]:
        sides = (
            (self.match.baseline_only, ONLY_BASELINE),
            (self.match.candidate_only, ONLY_CANDIDATE),
        )
        random = [not_compared(n, kind, by_random(why)) for n, (kind, why) in self._random.items()]
        proven = [
            replace(not_compared(name, RAW, why), verdict=ParityVerdict.EQUAL)
            for name, why in self._proven.items()
        ]
        return [*proven, *random] + [
            not_compared(
                name,
                FITTED if name in self._only_fitted else RAW,
                f"{why}; listed under expected_changes" if name in self._expected else why,
            )
            for names, why in sides
            for name in names
        ]

    def _unknown(self, reports: Sequence[TensorReport]) -> tuple[str, ...]:
        known = {r.name for r in reports} | {r.name.split("[")[0] for r in reports}
        if self._expected:
            known |= {column_name(t.name, c) for _, t in self._raw if t.wide for c in t.labels}
        return tuple(name for name in self._expected if name not in known)

    def state(self) -> State:
        """Everything so far, as arrays without objects; not to be written to."""
        if self._saved is not None:
            return self._saved
        state: State = {
            "head": bytes_from_value(
                [self._answered, self._requests, self._whole, self._mismatched, list(self._inputs)]
            ),
            "absences": self._absences.state(),
            "order": self._order.state(),
        }
        for i, tally in enumerate(self._tallies()):
            state |= under(str(i), tally.state())
        self._saved = state
        return state

    def _tallies(self) -> list[TensorTally]:
        return [*(tally for _, tally in (*self._raw, *self._fitted)), *self._inputs.values()]

    @classmethod
    def from_state(
        cls,
        state: State,
        floor: Floor,
        baseline_graph: ModelGraph,
        candidate_graph: ModelGraph,
        expected_changes: Collection[str] = (),
        mapping: NameMapping | None = None,
        *,
        proven: Mapping[str, str] | None = None,
    ) -> FeatureDiff:
        """Continues from `state()`; the other arguments as in the first construction."""
        diff = cls(floor, baseline_graph, candidate_graph, expected_changes, mapping, proven=proven)
        head = value_from_bytes(state["head"])
        diff._answered, diff._requests, diff._whole, diff._mismatched, inputs = head
        diff._inputs = {name: TensorTally(name, INPUT, {}, ()) for name in inputs}
        diff._absences.restore(state["absences"].astype(np.int64))
        diff._order.restore(state["order"])
        for i, tally in enumerate(diff._tallies()):
            tally.restore(inside(str(i), state))
        return diff


def _any(reports: Sequence[TensorReport], verdict: ParityVerdict) -> bool:
    return any(report.verdict is verdict for report in reports)


def _marked(report: TensorReport, follow: Follow | None) -> TensorReport:
    if follow is None or report.mismatched_requests == 0:
        return report
    if follow.proven:
        return replace(report, text=f"follows from {follow.root}")
    return replace(report, text=f"{report.text}; may follow from {follow.root}")
