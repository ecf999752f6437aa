"""One matched tensor: the one accumulator that every diff is made of, and what its figures say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.core.counted import counted
from harness.core.tensors import Array, Bools
from harness.diff.columns import column_name
from harness.diff.fills import zero_filled_columns
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
from harness.diff.running import RunningTally
from harness.diff.sample import LIMIT
from harness.diff.wide_reports import WideTensor, wide_reports
from harness.diff.wide_sample import WANTED

Further = Callable[[int, Relation], Relation]
"""A column's number and what its own pairs say → what it is called."""
_OF_ONE = 0.02
"""Part of a unit by which relations of whole numbers may miss."""

_OF_ONE_VERSION = Relation(
    kind=RelationKind.OTHER, value=None, share=0.0, text="this class is named by one version only"
)
"""Of a class that has no values on the other side: whatever stands there instead tells nothing."""


class TensorTally(RunningTally):
    """Counts how one tensor differs, and reports it by column; arguments as for `RunningTally`."""

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
        alone = mismatched and not self._unlike and label in self.one_sided_labels
        relation = _OF_ONE_VERSION if alone else self._relation(index, vocabularies)
        if mismatched and further is not None and not self._unlike and not alone:
            relation = further(index, relation)
        if relation.kind is not RelationKind.EQUAL and not self._unlike:
            relation = _as_far_as_kept(relation, self._cut(index))
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
            if self._reshaped or self._retyped:
                text += f", though {self._reshaped or self._retyped}"
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
    def reshaped(self) -> str:
        """How a shape changed although the values were compared; "" = none did."""
        return self._reshaped

    @property
    def retyped(self) -> str:
        """Which float type became which; "" = none did."""
        return self._retyped

    @property
    def flat(self) -> bool:
        """One value a row, on both sides: of shape (rows) or (rows, 1)."""
        return self.labels in (("",), ("0",)) and not self._unlike

    @property
    def wide(self) -> bool:
        """Of so many columns that only those that differ most are kept, or of unlike shapes."""
        return self._columns is not None or bool(self._unlike)

    def _cut(self, index: int) -> int | None:
        """Rows that are kept of a column where text left no room for others; None = it did."""
        return self.sample.cut if self._columns is None else self._columns.cut(index)

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


def _as_far_as_kept(relation: Relation, rows: int | None) -> Relation:
    """What a few long texts show is no rule for all of them; None = as many rows were kept as of short ones."""
    if rows is None:
        return relation
    text = f"among the {rows:,} rows kept: {relation.text}"
    return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
