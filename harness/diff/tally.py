"""Running figures of one matched tensor: the one accumulator that every diff is made of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from harness.core.counted import counted
from harness.core.errors import GateError
from harness.core.tensors import Array, Bools, Floats, Ints, holds_nested, same_bits
from harness.diff.columns import Aligned, Alike, ComparedRows, Keys, aligned, column_name
from harness.diff.distance import SMALL_SHARE, computed_tolerance
from harness.diff.measures import Floors, measures_of
from harness.diff.nested import LaidOut, laid_out
from harness.diff.pairs import Relation, RelationKind, Vocabularies
from harness.diff.relations import name_relation
from harness.diff.reports import (
    NO_ROWS,
    Example,
    ParityVerdict,
    TensorReport,
    not_compared,
    small_words,
)
from harness.diff.sample import RowSample
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes

_EXAMPLES = 5


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
        self.rows = 0
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
        self._wide = False
        self._set_measures()
        self._small: Floats = np.zeros(0)
        self._max_abs: Floats = np.zeros(0)
        self._max_rel: Floats = np.zeros(0)
        self._one_sided: Ints = np.zeros(0, dtype=np.int64)
        self._by_column: Ints = np.zeros(0, dtype=np.int64)
        self._examples: dict[str, list[Any]] = {}
        self._ids: list[str] = []

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
        self.rows += len(view.owner)
        self.requests += view.count
        same = keys[0] == keys[1] and same_bits(baseline, candidate)
        if same and self.labels and not self.sample.wants_more():
            return None
        known = () if keys[0] is None else self.labels
        pair = aligned(ours, view.take(candidate), keys, known, self._alike)
        self._grow(pair, baseline.dtype, candidate.dtype)
        if same:
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
            self.rows += view.total
            self.requests += view.count
            self._grow(pair, laid.values.baseline.dtype, laid.values.candidate.dtype)
            found = self._differing(pair, view)
            if found is not None:
                marked |= found
        return marked if marked.any() else None

    def _differing(self, pair: Aligned, view: ComparedRows) -> Bools | None:
        difference = self._measures.difference(pair, whole=pair.wide or self._wide)
        cells = difference.mismatch
        self._max_abs = np.maximum(self._max_abs, difference.absolute.max(axis=0, initial=0.0))
        self._max_rel = np.maximum(self._max_rel, difference.relative.max(axis=0, initial=0.0))
        self._small = self._small + self._small_shares(difference.small)
        self._one_sided = self._one_sided + difference.masked.sum(axis=0, dtype=np.int64)
        rows = np.asarray(cells.any(axis=1), dtype=np.bool_)
        if not pair.unlike:
            self.sample.add(pair.baseline, pair.candidate, rows)
        if not rows.any():
            return None
        self._by_column = self._by_column + view.count_by_column(cells)
        marked = view.owners(rows)
        self.mismatched += int(marked.sum())
        if pair.unlike:
            self._unlike_requests += int(marked.sum())
        self._keep_examples(pair, cells, view)
        columns = self._measures.counted
        if columns.all():
            return marked
        counted = np.asarray(cells[:, columns].any(axis=1), dtype=np.bool_)
        return view.owners(counted) if counted.any() else None

    def _grow(
        self, pair: Aligned, before: np.dtype[np.generic], after: np.dtype[np.generic]
    ) -> None:
        self._unlike = self._unlike or pair.unlike
        self._reshaped = self._reshaped or pair.reshaped
        more = len(pair.labels) - len(self.labels)
        if self.labels and (more <= 0 or self._wide):
            return
        unlike = self._unlike_requests
        self.labels = pair.labels
        self._wide = pair.wide
        self._base = computed_tolerance(before, after, coarse=self._coarse)
        self._set_measures()
        self._max_abs = np.pad(self._max_abs, (0, more))
        self._max_rel = np.pad(self._max_rel, (0, more))
        self._small = np.pad(self._small, (0, more))
        self._one_sided = np.pad(self._one_sided, (0, more))
        self._by_column = np.pad(self._by_column, (0, more), constant_values=unlike)

    def _set_measures(self) -> None:
        self._measures = measures_of(
            self.name, self.labels, self._floors, self._base, self._expected
        )

    def _note_classes(self, ours: Keys, theirs: Keys) -> None:
        if ours == theirs:
            return
        for label in set(ours) ^ set(theirs):
            self.one_sided_labels[label] = "baseline only" if label in ours else "candidate only"

    def _keep_examples(self, pair: Aligned, cells: Bools, view: ComparedRows) -> None:
        if len(self._ids) < _EXAMPLES:
            owners = np.unique(view.owner[cells.any(axis=1)])
            self._ids += [str(i) for i in view.ids[owners[: _EXAMPLES - len(self._ids)]]]
        for column in np.flatnonzero(cells.any(axis=0)).tolist():
            label = self.labels[column]
            if label in self._examples:
                continue
            row = int(np.argmax(cells[:, column]))
            request = str(view.ids[view.owner[row]])
            if pair.unlike or pair.wide or self._wide:
                self._examples[label] = [request, None, None]
            else:
                before, after = pair.baseline[row, column], pair.candidate[row, column]
                self._examples[label] = [request, _plain(before), _plain(after)]

    def reports(self, vocabularies: Vocabularies = (None, None)) -> list[TensorReport]:
        """One report a column, with the relation named from the sample."""
        if self.rows == 0 or not self.labels:
            return [not_compared(self.name, self.kind, NO_ROWS)]
        return [self._report(i, vocabularies) for i in range(len(self.labels))]

    def _report(self, index: int, vocabularies: Vocabularies) -> TensorReport:
        label = self.labels[index]
        example = self._examples.get(label)
        mismatched = int(self._by_column[index])
        relation = self._relation(index, vocabularies)
        return TensorReport(
            name=column_name(self.name, label),
            kind=self.kind,
            about="",
            rows=self.rows,
            requests=self.requests,
            mismatched_requests=mismatched,
            one_sided=int(self._one_sided[index]),
            max_abs=float(self._max_abs[index]),
            max_rel=float(self._max_rel[index]),
            tolerance=float(self._measures.tolerance[index]),
            verdict=self._verdict(
                mismatched,
                counted=bool(self._measures.counted[index]),
                small=self._beyond_small(index),
            ),
            relation=relation.kind.value,
            value=relation.value,
            text=relation.text if mismatched else self._equal_words(index, relation),
            small_rows=self._small_rows(index),
            example=None
            if example is None
            else Example(request_id=example[0], baseline=example[1], candidate=example[2]),
            examples=tuple(self._ids),
        )

    def _small_shares(self, small: Bools) -> Floats:
        """Rows by column; of what is judged as a whole shares of rows: hardly one has no value near zero."""
        if small.shape[1] == len(self._small):
            columns: Floats = np.asarray(small.sum(axis=0), dtype=np.float64)
            return columns
        return np.full(len(self._small), float(small.mean(axis=1).sum()) if small.size else 0.0)

    def _small_rows(self, index: int) -> int:
        return int(np.ceil(self._small[index]))

    def _beyond_small(self, index: int) -> bool:
        return bool(self._small[index] > SMALL_SHARE * self.rows)

    def _small_words(self, index: int) -> str:
        return small_words(self._small_rows(index), self.rows)

    def _equal_words(self, index: int, relation: Relation) -> str:
        small = self._small_rows(index)
        if self._beyond_small(index):
            return self._small_words(index)
        if not small:
            return relation.text
        return (
            f"{relation.text}; {counted(small, 'value')} within the tolerance "
            "differ by more than 0.1 % of themselves"
        )

    def small_columns(self) -> tuple[tuple[str, str], ...]:
        """(column, why) of those that count, and are not comparable for their small values."""
        return tuple(
            (column_name(self.name, label), self._small_words(i))
            for i, label in enumerate(self.labels)
            if self._measures.counted[i] and self._beyond_small(i)
        )

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
            if self._unlike_requests < self._by_column[index]:
                text += f" for {counted(self._unlike_requests)}"
            return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
        if self._by_column[index] == 0:
            text = "candidate = baseline"
            if self._reshaped:
                text += f", though {self._reshaped}"
            return Relation(kind=RelationKind.EQUAL, value=None, share=1.0, text=text)
        before, after = self.sample.flat() if self._wide else self.sample.column(index)
        tolerance, scale = self.measure(index)
        relation = name_relation(
            before, after, tolerance=tolerance, scale=scale, vocabularies=vocabularies
        )
        if relation.kind is RelationKind.EQUAL:
            text = "none of the sampled rows differs in this column"
            return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
        return relation

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
        """One value a row, on both sides."""
        return self.labels == ("",) and not self._wide and not self._unlike

    @property
    def wide(self) -> bool:
        """Judged as a whole, or of unlike shapes."""
        return self._wide or bool(self._unlike)

    def max_rel(self) -> float:
        """Largest relative difference over all columns."""
        return float(self._max_rel.max(initial=0.0))

    def measure(self, index: int = 0) -> tuple[float, float]:
        """(relative tolerance, scale) of a column."""
        return float(self._measures.tolerance[index]), float(self._measures.scale[index])

    def state(self) -> State:
        """Everything that `restore` needs, as arrays."""
        head = {
            "rows": self.rows,
            "requests": self.requests,
            "mismatched": self.mismatched,
            "labels": list(self.labels),
            "one_sided_labels": self.one_sided_labels,
            "base": self._base,
            "unlike": self._unlike,
            "unlike_requests": self._unlike_requests,
            "reshaped": self._reshaped,
            "wide": self._wide,
            "examples": self._examples,
            "ids": self._ids,
        }
        return {
            "head": bytes_from_value(head),
            "max_abs": self._max_abs,
            "max_rel": self._max_rel,
            "small": self._small,
            "one_sided": self._one_sided,
            "by_column": self._by_column,
        } | under("sample", self.sample.state())

    def restore(self, state: State) -> None:
        """Continues from `state()` of a tally made with the same arguments."""
        head = value_from_bytes(state["head"])
        self.rows, self.requests = head["rows"], head["requests"]
        self.mismatched = head["mismatched"]
        self.labels = tuple(head["labels"])
        self.one_sided_labels = head["one_sided_labels"]
        self._base, self._unlike, self._wide = head["base"], head["unlike"], head["wide"]
        self._unlike_requests, self._reshaped = head["unlike_requests"], head["reshaped"]
        self._examples, self._ids = head["examples"], head["ids"]
        self._max_abs = state["max_abs"].astype(np.float64)
        self._max_rel = state["max_rel"].astype(np.float64)
        self._small = state["small"].astype(np.float64)
        self._one_sided = state["one_sided"].astype(np.int64)
        self._by_column = state["by_column"].astype(np.int64)
        self.sample = RowSample.from_state(inside("sample", state))
        self._set_measures()


def _plain(value: Any) -> float | int | bool | str:  # noqa: ANN401 - a cell of any dtype
    return value if isinstance(value, str) else value.item()
