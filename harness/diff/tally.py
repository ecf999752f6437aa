"""Running figures of one matched tensor: the one accumulator that every diff is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from harness.core.counted import counted
from harness.core.errors import GateError
from harness.core.tensors import Array, Bools, holds_nested, same_bits
from harness.diff.column_figures import ColumnFigures
from harness.diff.columns import (
    WIDE,
    Aligned,
    Alike,
    ComparedRows,
    Keys,
    aligned,
    column_name,
    numbered,
)
from harness.diff.distance import computed_tolerance
from harness.diff.examples import Examples
from harness.diff.fills import zero_filled_columns
from harness.diff.measures import Floors, measures_of
from harness.diff.nested import LaidOut, laid_out
from harness.diff.pairs import Relation, RelationKind, Vocabularies
from harness.diff.relations import name_relation
from harness.diff.reports import (
    NO_ROWS,
    ParityVerdict,
    TensorReport,
    lent_words,
    not_compared,
    small_words,
    units_words,
    within_words,
)
from harness.diff.sample import LIMIT, RowSample, rows_kept
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes
from harness.diff.wide_reports import WideTensor, wide_reports
from harness.diff.wide_sample import WANTED, WideSample, worst_columns

Further = Callable[[int, Relation], Relation]
"""A column's number and what its own pairs say → what it is called."""
_WHOLLY_KEPT = ("raw", "fitted")
_OF_ONE = 0.02
"""Part of a unit by which relations of whole numbers may miss."""


class TensorTally:
    """Counts how one tensor differs; batch boundaries do not matter.

    Args:
      name: the baseline's name, as shown.
      kind: raw, fitted or output.
      floors: tolerance and scale per column, looked up under the baseline's name; a column
        without a floor is measured against each row's own magnitude.
      expected: tensor or column names whose differences are not counted.
      coarse: what it holds as float64 has float32's digits only.
      alike: which trailing shapes of the two sides are equal enough.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        floors: Floors,
        expected: Collection[str],
        *,
        coarse: bool = False,
        alike: Alike = Alike.SIZE,
    ) -> None:
        self.name = name
        self.kind = kind
        self.sample = RowSample()
        self.requests = 0
        self.mismatched = 0
        self.labels: Keys = ()
        self.one_sided_labels: dict[str, str] = {}
        self._floors = floors
        self._expected = frozenset(expected)
        self._coarse = coarse
        self._base = 0.0
        self._alike = alike
        self._unlike = ""
        self._unlike_requests = 0
        self._reshaped = ""
        self._columns: WideSample | None = None
        self._set_measures()
        self._figures = ColumnFigures()
        self._examples = Examples()

    def update(
        self,
        baseline: Array,
        candidate: Array,
        view: ComparedRows,
        keys: tuple[Keys | None, Keys | None] = (None, None),
    ) -> Bools | None:
        """Adds one batch.

        Args:
          baseline: shape (R, *trailing).
          candidate: shape (R, *trailing).
          view: which rows are compared and who owns them.
          keys: class names, for ZipMap outputs.

        Returns:
          Requests with a counted difference, shape (n,); None when there is none.
        """
        if len(baseline) != view.total or len(candidate) != view.total:
            raise GateError(
                self.name,
                f"{len(baseline)} and {len(candidate)} rows came for {view.total}",
                "This is a fault of the gate; please report it with the run folder.",
            )
        ours = view.take(baseline)
        if holds_nested(ours):
            return self._update_nested(laid_out(ours, view.take(candidate), view))
        self._figures.rows += len(view.owner)
        self.requests += view.count
        same = keys[0] == keys[1] and same_bits(baseline, candidate)
        if same and self.labels and not (self._kept.wants_more() or self._beginning):
            return None
        known = () if keys[0] is None else self.labels
        pair = aligned(ours, view.take(candidate), keys, known, self._alike)
        self._grow(pair, baseline.dtype, candidate.dtype)
        if same:
            self._kept.add_equal(pair.baseline)
            if self._beginning:
                self.sample.add_equal(pair.baseline)
            return None
        if keys[0] is not None and keys[1] is not None:
            self._note_classes(keys[0], keys[1])
        return self._differing(pair, view)

    def _update_nested(self, laid: LaidOut) -> Bools | None:
        """Adds one batch of sequences; those of unlike forms differ as a whole."""
        marked = np.zeros(len(laid.view.requests), dtype=np.bool_)
        for pair, view in ((laid.values, laid.view), (laid.unlike, laid.unlike_view)):
            if not view.total:
                continue
            self._figures.rows += view.total
            self.requests += view.count
            self._grow(pair, laid.values.baseline.dtype, laid.values.candidate.dtype)
            found = self._differing(pair, view)
            if found is not None:
                marked |= found
        return marked if marked.any() else None

    def _differing(self, pair: Aligned, view: ComparedRows) -> Bools | None:
        difference = self._measures.difference(pair)
        cells = difference.mismatch
        self._figures.add(difference)
        rows = np.asarray(cells.any(axis=1), dtype=np.bool_)
        if rows.any():
            self._figures.differing = self._figures.differing + view.count_by_column(cells)
        if not pair.unlike:
            self._keep_values(pair, cells, rows)
        if not rows.any():
            return None
        marked = view.owners(rows)
        self.mismatched += int(marked.sum())
        if pair.unlike:
            self._unlike_requests += int(marked.sum())
        places = range(len(self.labels)) if self._columns is None else self._columns
        self._examples.add(pair, cells, view, ((i, self.labels[i]) for i in places))
        columns = self._measures.counted
        if columns.all():
            return marked
        counted = np.asarray(cells[:, columns].any(axis=1), dtype=np.bool_)
        return view.owners(counted) if counted.any() else None

    def _keep_values(self, pair: Aligned, cells: Bools, rows: Bools) -> None:
        if self._columns is None:
            self.sample.add(pair.baseline, pair.candidate, rows)
            return
        worst = worst_columns(self._figures.differing, self._figures.relative, WANTED)
        self._columns.add(pair.baseline, pair.candidate, cells, worst)
        if self._beginning:
            self.sample.add(pair.baseline, pair.candidate, np.zeros(len(rows), dtype=np.bool_))

    @property
    def _beginning(self) -> bool:
        """Whether all columns of more rows of a wide tensor are kept."""
        return self._columns is not None and not self._unlike and self.sample.wants_more()

    def _rows_kept(self) -> int:
        """Rows of which all columns are kept, of a wide tensor.

        None but of features: which of many refitted columns is a fault, no count of requests says, and a
        raw one may carry another one's values, or be what a scaler acts on.
        """
        return rows_kept(len(self.labels)) if self.kind in _WHOLLY_KEPT else 0

    @property
    def _kept(self) -> RowSample | WideSample:
        return self.sample if self._columns is None else self._columns

    def _grow(
        self, pair: Aligned, before: np.dtype[np.generic], after: np.dtype[np.generic]
    ) -> None:
        self._unlike = self._unlike or pair.unlike
        self._reshaped = self._reshaped or pair.reshaped
        more = len(pair.labels) - len(self.labels)
        if self.labels and more <= 0:
            return
        unlike = self._unlike_requests
        self.labels = pair.labels
        if self._columns is None and len(self.labels) > WIDE:
            self._columns = WideSample()
            self.sample = RowSample(self._rows_kept())
        self._base = computed_tolerance(before, after, coarse=self._coarse)
        self._set_measures()
        self._figures.grow(more, unlike)

    def _set_measures(self) -> None:
        self._measures = measures_of(
            self.name, self.labels, self._floors, self._base, self._expected
        )

    def _note_classes(self, ours: Keys, theirs: Keys) -> None:
        if ours == theirs:
            return
        for label in set(ours) ^ set(theirs):
            self.one_sided_labels[label] = "baseline only" if label in ours else "candidate only"

    def reports(
        self, vocabularies: Vocabularies = (None, None), further: Further | None = None
    ) -> list[TensorReport]:
        """One report a column, with the relation named from the sample; of a wide tensor see `wide_reports`.

        Args:
          vocabularies: of columns of codes.
          further: asks other rows and other columns about a column that differs.
        """
        return [report for _, report in self.reports_by_column(vocabularies, further)]

    def reports_by_column(
        self, vocabularies: Vocabularies = (None, None), further: Further | None = None
    ) -> list[tuple[int, TensorReport]]:
        """(column, report); the column is the worst of those that a report stands for."""
        if self.rows == 0 or not self.labels:
            return [(0, not_compared(self.name, self.kind, NO_ROWS))]
        if self._columns is None:
            return [(i, self._report(i, vocabularies, further)) for i in range(len(self.labels))]
        tensor = WideTensor(
            name=self.name,
            labels=self.labels,
            figures=self._figures,
            counted=self._measures.counted & ~self._zeroed(),
            mismatched=self.mismatched,
            unlike=bool(self._unlike),
        )
        return wide_reports(tensor, lambda i: self._report(i, vocabularies, further))

    def _zeroed(self) -> Bools:
        """Columns of a wide fitted tensor that the candidate fills with 0, shape (k,): told by themselves."""
        found = np.zeros(len(self.labels), dtype=np.bool_)
        if self.kind != "fitted" or not self.sample.seen or self._unlike:
            return found
        for index in zero_filled_columns(*self.sample.beginning()).tolist():
            relation = self._relation(index, (None, None))
            found[index] = relation.kind is RelationKind.FILLED_WITH_ZERO
        return found

    def _report(
        self, index: int, vocabularies: Vocabularies, further: Further | None
    ) -> TensorReport:
        label = self.labels[index]
        mismatched = int(self._figures.differing[index])
        relation = self._relation(index, vocabularies)
        if mismatched and further is not None and not self._unlike:
            relation = further(index, relation)
        return TensorReport(
            name=column_name(self.name, label),
            kind=self.kind,
            about="",
            rows=self.rows,
            requests=self.requests,
            mismatched_requests=mismatched,
            one_sided=int(self._figures.one_sided[index]),
            max_abs=float(self._figures.absolute[index]),
            max_rel=float(self._figures.relative[index]),
            tolerance=float(self._measures.tolerance[index]),
            verdict=self._verdict(
                mismatched,
                counted=bool(self._measures.counted[index]),
                small=bool(self._figures.unproven[index]),
            ),
            relation=relation.kind.value,
            value=relation.value,
            text=relation.text if mismatched else self._equal_words(index, relation),
            small_rows=int(self._figures.small[index]),
            example=self._examples.of(label),
            examples=tuple(self._examples.ids),
        )

    def _small_words(self, index: int) -> str:
        small, lent = int(self._figures.small[index]), int(self._figures.lent[index])
        return lent_words(lent, self.rows) if lent > small else small_words(small, self.rows)

    def _equal_words(self, index: int, relation: Relation) -> str:
        small = int(self._figures.small[index])
        if self._figures.unproven[index]:
            return self._small_words(index)
        if small:
            return f"{relation.text}; {within_words(small)}"
        absolute = float(self._figures.absolute[index])
        return f"{relation.text}; {units_words(absolute)}" if absolute >= 1 else relation.text

    def small_columns(self) -> tuple[tuple[str, str], ...]:
        """(column, why) of those that count, and are not comparable for their small values."""
        beyond = np.flatnonzero(self._measures.counted & self._figures.unproven).tolist()
        found = [(column_name(self.name, self.labels[i]), self._small_words(i)) for i in beyond]
        if self._columns is None or len(found) <= WANTED:
            return tuple(found)
        more = f"{len(found) - WANTED:,} more columns"
        return (*found[:WANTED], (column_name(self.name, more), found[WANTED][1]))

    def _verdict(self, mismatched: int, *, counted: bool, small: bool) -> ParityVerdict:
        if mismatched == 0:
            if small and counted and self.kind != "fitted":
                return ParityVerdict.SMALL_VALUES
            return ParityVerdict.EQUAL
        if self.kind == "fitted":
            return ParityVerdict.REFITTED
        return ParityVerdict.DIFFERS if counted else ParityVerdict.EXPECTED

    def _relation(self, index: int, vocabularies: Vocabularies) -> Relation:
        if self._unlike:
            text = self._unlike
            if self._unlike_requests < self._figures.differing[index]:
                text += f" for {counted(self._unlike_requests)}"
            return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
        if self._figures.differing[index] == 0:
            text = "candidate = baseline"
            if self._reshaped:
                text += f", though {self._reshaped}"
            return Relation(kind=RelationKind.EQUAL, value=None, share=1.0, text=text)
        kept = self._kept
        if self._columns is not None and index not in self._columns and self.sample.seen:
            kept = self.sample
        elif self._columns is not None and index not in self._columns:
            text = "not among the columns whose values were kept"
            return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
        before, after = kept.column(index)
        tolerance, scale = self.measure(index)
        relation = name_relation(
            before, after, tolerance=tolerance, scale=scale, vocabularies=vocabularies
        )
        if relation.kind is RelationKind.EQUAL:
            text = "none of the sampled rows differs in this column"
            return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
        return relation

    @property
    def rows(self) -> int:
        """Rows compared."""
        return self._figures.rows

    @property
    def unlike(self) -> str:
        """How a shape changed so that values could not be compared; "" = none did."""
        return self._unlike

    @property
    def reshaped(self) -> str:
        """How a shape changed although the values were compared; "" = none did."""
        return self._reshaped

    @property
    def flat(self) -> bool:
        """One value a row, on both sides: of shape (rows) or (rows, 1)."""
        return self.labels in (("",), ("0",)) and not self._unlike

    @property
    def wide(self) -> bool:
        """Of so many columns that only those that differ most are kept, or of unlike shapes."""
        return self._columns is not None or bool(self._unlike)

    def prefix(self, index: int) -> tuple[Array, Array]:
        """A column's values in the first rows, which are the same for every tensor; none where not kept."""
        return (self.sample if self.sample.seen else self._kept).prefix(index)

    def longest_prefix(self, index: int) -> tuple[Array, Array]:
        """As `prefix`, in more rows where this column of a wide tensor was kept by itself."""
        kept = self._kept.prefix(index)
        return kept if len(kept[0]) else self.prefix(index)

    def rows_shared(self, other: TensorTally) -> int:
        """How many of the first rows both keep; 0 where these are not the same ones."""
        (limit, rows), (most, there) = self._first_rows, other._first_rows
        limit = min(limit, most)
        return min(rows, limit) if min(rows, limit) == min(there, limit) else 0

    @property
    def _first_rows(self) -> tuple[int, int]:
        """(rows that are kept at most, rows that are kept) of the beginning."""
        limit, seen = LIMIT, self._kept.seen
        if self.sample.seen:
            limit, seen = self.sample.limit, self.sample.seen
        return limit, min(seen, limit)

    def max_rel(self) -> float:
        """Largest relative difference over all columns."""
        return float(self._figures.relative.max(initial=0.0))

    def measure(self, index: int = 0) -> tuple[float, float]:
        """(relative tolerance, scale) of a column."""
        tolerance, scale = self._measures.tolerance[index], self._measures.scale[index]
        if self._measures.whole[index]:
            tolerance = min(tolerance, max(self._measures.noise[index], _OF_ONE / scale))
        return float(tolerance), float(scale)

    def state(self) -> State:
        """Everything that `restore` needs, as arrays."""
        head = {
            "rows": self.rows,
            "requests": self.requests,
            "mismatched": self.mismatched,
            "labels": len(self.labels) if self._numbered else list(self.labels),
            "one_sided_labels": self.one_sided_labels,
            "base": self._base,
            "unlike": self._unlike,
            "unlike_requests": self._unlike_requests,
            "reshaped": self._reshaped,
            "examples": self._examples.values,
            "ids": self._examples.ids,
        }
        return (
            {
                "head": bytes_from_value(head),
            }
            | under("sample", self.sample.state())
            | ({} if self._columns is None else under("columns", self._columns.state()))
            | under("figures", self._figures.state())
        )

    @property
    def _numbered(self) -> bool:
        return self.labels == numbered(len(self.labels))

    def restore(self, state: State) -> None:
        """Continues from `state()` of a tally made with the same arguments."""
        head = value_from_bytes(state["head"])
        self.requests = head["requests"]
        self.mismatched = head["mismatched"]
        labels = head["labels"]
        self.labels = numbered(labels) if isinstance(labels, int) else tuple(labels)
        self.one_sided_labels = head["one_sided_labels"]
        self._base, self._unlike = head["base"], head["unlike"]
        self._unlike_requests, self._reshaped = head["unlike_requests"], head["reshaped"]
        self._examples = Examples(values=head["examples"], ids=head["ids"])
        self._figures = ColumnFigures.from_state(head["rows"], inside("figures", state))
        limit = None
        if columns := inside("columns", state):
            self._columns = WideSample.from_state(columns)
            limit = self._rows_kept()
        self.sample = RowSample.from_state(inside("sample", state), limit)
        self._set_measures()
