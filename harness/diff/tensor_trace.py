"""One matched pair of tensors over the batches that go through both graphs.

The floor is the baseline against itself in the same batch composition, and, where rows are known, in halves of
the batch: summation order is noise. A baseline that answers otherwise for halves (its answer depends on the
batch) keeps the first floor only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.core.tensors import Array, Floats, Nested, same_bits
from harness.diff.any_size import any_size
from harness.diff.distance import FLOAT_TOLERANCE, FLOOR_FACTOR, computed_tolerance
from harness.diff.floor import SWALLOWED, noise_of
from harness.diff.whole import apart_whole

_BATCH_DEPENDENT = 1e-3
"""Halves that are further apart than this are no rounding: the tensor is about the whole batch."""


@dataclass(slots=True)
class TensorTrace:
    """One matched pair of tensors over a few batches."""

    fine: bool = False
    """Where it is float64, all digits count: no float32 arithmetic is before the baseline's."""
    exact: bool = False
    """Nothing rounds the baseline's, as `Graph.exact` has it."""
    moved: bool = False
    """Both versions hand it on as it came."""
    output: bool = False
    """Clients read it: another shape is another answer."""
    compared: int = 0
    """Batches with values on both sides."""
    rows: int = 0
    """Rows of these; batches where rows are not known."""
    by_batch: bool = False
    """Rows are not known, in one batch of several rows at least."""
    empty: bool = True
    """No batch held a value."""
    differing: int = 0
    """Of these: beyond the tolerance."""
    relative: float = 0.0
    """Largest difference relative to the scale."""
    usual: float = 0.0
    """Relative tolerance that its types have; 0 for what is compared exactly."""
    absolute: float = 0.0
    """Largest finite difference."""
    floor: float = 0.0
    """Largest difference of the baseline from itself, relative to the scale."""
    ordered: Floats = field(default_factory=lambda: np.zeros(1))
    """The same of each column, with the baseline's sums in other orders; 0 also where it was not measured."""
    proven: bool = False
    """Nothing but the order of sums is between the versions: what was measured of it is noise of any type."""
    columns: Floats = field(default_factory=lambda: np.zeros(1))
    """`relative`, of each column."""
    noisy: bool = False
    """The baseline differs from itself by more than rounding in the same batch."""
    unlike: str = ""
    """Why a batch could not be compared."""
    small: int = 0
    """Rows with differences within the tolerance that are large parts of their values, in the column with the most."""
    same: bool = True
    """Every batch held the same bits, types and shapes on both sides; False also where only parts of values were seen."""
    reshaped: bool = False
    """The same number of values in another shape: equal, and yet what reads it may differ by it."""
    examples: list[int] = field(default_factory=list)
    """First differing rows, as (batch rows before it + row), at most 5."""

    @any_size
    def floor_from(
        self, again: Array | Nested, baseline: Array | Nested, halves: Array | None, rows: int
    ) -> None:
        """Takes the baseline against itself.

        Args:
          again: the same batch, another process.
          baseline: the batch.
          halves: both halves, joined; None where the tensor has no rows.
          rows: of the batch.
        """
        same = apart_whole(baseline, again, rows=rows, tolerance=0.0)
        self.noisy |= bool(same.rows.any())
        self.floor = max(self.floor, same.relative)
        if halves is not None:
            split = apart_whole(baseline, halves, rows=rows, tolerance=0.0).relative
            if split <= _BATCH_DEPENDENT:
                self.floor = max(self.floor, split)

    @any_size
    def ordered_from(self, baseline: Array | Nested, other: Array | Nested, rows: int) -> None:
        """Takes the baseline with its sums in another order.

        Args:
          baseline: the batch.
          other: the same batch, from a copy whose sums go in another order.
          rows: of the batch.
        """
        found = apart_whole(baseline, other, rows=rows, tolerance=0.0).columns
        self.ordered = _largest_of_each(self.ordered, found)

    @property
    def by_order(self) -> bool:
        """Whether the sums' order may explain every difference: each column's is at most eight times what it moved."""
        moved = (
            np.broadcast_to(self.ordered, self.columns.shape)
            if len(self.ordered) == 1
            else self.ordered
        )
        far = self.columns > FLOAT_TOLERANCE
        return bool(
            self.ordered.any()
            and len(moved) == len(far)
            and (self.columns[far] <= FLOOR_FACTOR * moved[far]).all()
        )

    @property
    def explained(self) -> float:
        """The floor that gives this tolerance."""
        return self.largest_tolerance / FLOOR_FACTOR

    @property
    def largest_tolerance(self) -> float:
        """Of all columns."""
        return float(self.tolerance.max(initial=0.0))

    @property
    def tolerance(self) -> Floats:
        """Relative, of each column: what noise and the order of sums explain; `apart` adds what the types allow."""
        most = SWALLOWED / FLOOR_FACTOR if self.proven else 0.0
        return noise_of(np.fmax(self.floor, np.fmin(self.ordered, most)), self.ordered)

    @any_size
    def update(self, baseline: Array | Nested, candidate: Array | Nested, *, rows: int) -> None:
        """Takes one batch of both versions."""
        found = apart_whole(
            baseline,
            candidate,
            rows=rows,
            tolerance=self.tolerance,
            fine=self.fine,
            exact=self.exact,
            moved=self.moved,
            output=self.output,
        )
        before = self.rows
        self.same = self.same and _same_bits(baseline, candidate)
        shapes = [v.shape for v in (baseline, candidate) if not isinstance(v, Nested)]
        self.reshaped |= len(set(shapes)) > 1
        if not isinstance(baseline, Nested) and not isinstance(candidate, Nested):
            own = computed_tolerance(baseline.dtype, candidate.dtype, coarse=not self.fine)
            self.usual = max(self.usual, own)
        self.empty &= not any(isinstance(v, Nested) or v.size for v in (baseline, candidate))
        self.compared += 1
        self.rows += len(found.rows)
        self.by_batch |= len(found.rows) != rows
        self.differing += int(found.rows.sum())
        self.relative = max(self.relative, found.relative)
        self.columns = _largest_of_each(self.columns, found.columns)
        self.absolute = max(self.absolute, found.absolute)
        self.unlike = self.unlike or found.unlike
        self.small += found.small
        left = 5 - len(self.examples)
        self.examples += [before + int(i) for i in np.flatnonzero(found.rows)[:left]]

    @property
    def differs(self) -> bool:
        """Whether any row was beyond the tolerance."""
        return self.differing > 0


def _same_bits(baseline: Array | Nested, candidate: Array | Nested) -> bool:
    if isinstance(baseline, Nested) or isinstance(candidate, Nested):
        return type(baseline) is type(candidate) and bool(baseline == candidate)
    return same_bits(baseline, candidate)


def _largest_of_each(known: Floats, found: Floats) -> Floats:
    """The larger of each column; of all together where batches have other columns."""
    if len(found) != len(known) and len(known) > 1:
        found = found.max(initial=0.0, keepdims=True)
    return np.fmax(known, found) if len(found) else known
