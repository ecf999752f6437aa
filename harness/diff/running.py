"""Running figures of one matched tensor: what is counted and kept of it batch by batch."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

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
    numbered,
)
from harness.diff.distance import computed_tolerance
from harness.diff.examples import Examples
from harness.diff.measures import Floors, measures_of
from harness.diff.nested import LaidOut, laid_out
from harness.diff.sample import RowSample, rows_kept
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes
from harness.diff.wide_sample import WANTED, WideSample, worst_columns

_WHOLLY_KEPT = ("raw", "fitted")


class RunningTally:
    """Counts how one tensor differs; batch boundaries do not matter.

    Args:
      name: the baseline's name, as shown.
      kind: raw, fitted or output.
      floors: tolerance and scale per column, looked up under the baseline's name; a column
        without a floor is measured against each row's own magnitude.
      expected: tensor or column names whose differences are not counted.
      coarse: what it holds as float64 has float32's digits only.
      moved: both versions hand it on as it came: floats of one type are compared bit by bit.
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
        moved: bool = False,
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
        self._moved = moved
        self._base = 0.0
        self._unrounded = False
        self._alike = alike
        self._unlike = ""
        self._unlike_requests = 0
        self._reshaped = ""
        self._retyped = ""
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
        if before != after and {before.kind, after.kind} == {"f"}:
            self._retyped = f"{before} became {after}"
        self._unrounded = self._moved and before == after and self._base > 0
        if self._unrounded:
            self._base = 0.0
        self._set_measures()
        self._figures.grow(more, unlike)

    def _set_measures(self) -> None:
        self._measures = measures_of(
            self.name,
            self.labels,
            self._floors,
            self._base,
            self._expected,
            noisy=self._unrounded,
        )

    def _note_classes(self, ours: Keys, theirs: Keys) -> None:
        if ours == theirs:
            return
        for label in set(ours) ^ set(theirs):
            self.one_sided_labels[label] = "baseline only" if label in ours else "candidate only"

    @property
    def rows(self) -> int:
        """Rows compared."""
        return self._figures.rows

    @property
    def unlike(self) -> str:
        """How a shape changed so that values could not be compared; "" = none did."""
        return self._unlike

    def state(self) -> State:
        """Everything that `restore` needs, as arrays."""
        head = {
            "rows": self.rows,
            "requests": self.requests,
            "mismatched": self.mismatched,
            "labels": len(self.labels) if self._numbered else list(self.labels),
            "one_sided_labels": self.one_sided_labels,
            "base": self._base,
            "unrounded": self._unrounded,
            "unlike": self._unlike,
            "unlike_requests": self._unlike_requests,
            "reshaped": self._reshaped,
            "retyped": self._retyped,
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
        self._unrounded = bool(head["unrounded"])
        self._unlike_requests, self._reshaped = head["unlike_requests"], head["reshaped"]
        self._retyped = head["retyped"]
        self._examples = Examples(values=head["examples"], ids=head["ids"])
        self._figures = ColumnFigures.from_state(head["rows"], inside("figures", state))
        limit = None
        if columns := inside("columns", state):
            self._columns = WideSample.from_state(columns)
            limit = self._rows_kept()
        self.sample = RowSample.from_state(inside("sample", state), limit)
        self._set_measures()
