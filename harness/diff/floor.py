"""How far the baseline differs from itself: the noise floor, from the A/A leg.

The same requests go through the baseline twice with another batch split. What differs then is
noise of the runtime (summation order, random operators), never the candidate's doing. The same
prefix fixes each column's scale, max|value|, so that later verdicts are predictable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.observations import Outcome, PairBatch
from harness.core.tensors import Bools, Floats, Ints, Tensors
from harness.diff.columns import (
    Aligned,
    ComparedRows,
    Keys,
    aligned,
    column_name,
    compared_rows,
)
from harness.diff.distance import FLOOR_FACTOR, base_tolerance, compare_rows
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFloor:
    """One column of the baseline against itself."""

    name: str
    """As shown: tensor, or tensor[column]."""
    tensor: str
    """Baseline's tensor."""
    column: str
    """Column label; "" for a flat or wide tensor."""
    largest: float
    """Largest finite |difference| between the two A/A legs."""
    scale: float
    """Largest finite |value|: what later differences are relative to."""
    rows: int
    """Rows compared."""
    mismatch_share: float
    """Share of rows with unequal exact values or NaN/inf on one side only; no tolerance excuses these."""
    nondeterministic: bool
    """The column differs from run to run by more than rounding."""

    def tolerance(self, base: float) -> float:
        """Relative tolerance for the candidate: max(8 × floor, base)."""
        return max(FLOOR_FACTOR * self.largest / self.scale, base) if self.scale > 0 else base


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The noise floor of one baseline."""

    outputs: tuple[ColumnFloor, ...] = ()
    """Per output column."""
    features: tuple[ColumnFloor, ...] = ()
    """Per traced column."""
    requests: int = 0
    """Requests both A/A legs answered."""
    output_mismatch_share: float = 0.0
    """Share of requests whose outputs would count as a mismatch of the baseline with itself."""
    feature_mismatch_share: float = 0.0
    """The same for traced tensors."""


def floor_from_json(value: Mapping[str, Any]) -> Floor:
    """Reads what `core.jsonable` made of a Floor."""
    columns = {
        group: tuple(ColumnFloor(**column) for column in value[group])
        for group in ("outputs", "features")
    }
    return Floor(
        outputs=columns["outputs"],
        features=columns["features"],
        requests=value["requests"],
        output_mismatch_share=value["output_mismatch_share"],
        feature_mismatch_share=value["feature_mismatch_share"],
    )


class _ColumnSums:
    """Running figures of one tensor's columns."""

    def __init__(self) -> None:
        self.labels: Keys = ()
        self.rows = 0
        self.base = 0.0
        self.largest: Floats = np.zeros(0)
        self.scale: Floats = np.zeros(0)
        self.unequal: Ints = np.zeros(0, dtype=np.int64)

    def add(self, pair: Aligned) -> Bools:
        """Adds rows; returns which of them no tolerance would excuse, shape (R,)."""
        self._grow(pair.labels)
        self.rows += len(pair.baseline)
        if pair.unlike:
            self.unequal = self.unequal + len(pair.baseline)
            return np.ones(len(pair.baseline), dtype=np.bool_)
        self.base = base_tolerance(pair.baseline.dtype, pair.candidate.dtype)
        difference = compare_rows(pair.baseline, pair.candidate, np.inf, 0.0)
        size = np.maximum(_size(pair.baseline), _size(pair.candidate))
        cells: Bools = difference.mismatch
        absolute = difference.absolute
        if pair.wide:
            cells = np.asarray(cells.any(axis=1, keepdims=True))
            absolute = absolute.max(axis=1, keepdims=True, initial=0.0)
            size = size.max(axis=1, keepdims=True, initial=0.0)
        self.largest = np.maximum(self.largest, absolute.max(axis=0, initial=0.0))
        self.scale = np.maximum(self.scale, size.max(axis=0, initial=0.0))
        self.unequal = self.unequal + cells.sum(axis=0, dtype=np.int64)
        return np.asarray(cells.any(axis=1), dtype=np.bool_)

    def _grow(self, labels: Keys) -> None:
        more = len(labels) - len(self.labels)
        self.labels = labels
        self.largest = np.pad(self.largest, (0, more))
        self.scale = np.pad(self.scale, (0, more))
        self.unequal = np.pad(self.unequal, (0, more))

    def floors(self, tensor: str) -> list[ColumnFloor]:
        """The figures as values."""
        return [
            ColumnFloor(
                name=column_name(tensor, label),
                tensor=tensor,
                column=label,
                largest=float(self.largest[i]),
                scale=float(self.scale[i]),
                rows=self.rows,
                mismatch_share=float(self.unequal[i]) / max(self.rows, 1),
                nondeterministic=bool(
                    self.unequal[i] > 0 or self.largest[i] > self.base * self.scale[i]
                ),
            )
            for i, label in enumerate(self.labels)
        ]

    def state(self) -> State:
        """Everything, as arrays."""
        return {
            "head": bytes_from_value([list(self.labels), self.rows, self.base]),
            "largest": self.largest,
            "scale": self.scale,
            "unequal": self.unequal,
        }

    @classmethod
    def from_state(cls, state: State) -> _ColumnSums:
        """Continues from `state()`."""
        sums = cls()
        labels, sums.rows, sums.base = value_from_bytes(state["head"])
        sums.labels = tuple(labels)
        sums.largest = state["largest"].astype(np.float64)
        sums.scale = state["scale"].astype(np.float64)
        sums.unequal = state["unequal"].astype(np.int64)
        return sums


class FloorBuilder:
    """Collects the floor from A/A pairs, batch by batch; batch boundaries do not matter."""

    def __init__(self) -> None:
        self._outputs: dict[str, _ColumnSums] = {}
        self._features: dict[str, _ColumnSums] = {}
        self._requests = 0
        self._unequal_outputs = 0
        self._traced = 0
        self._unequal_features = 0

    def update(self, pair: PairBatch) -> None:
        """Adds A/A pairs: `candidate` holds the baseline's second leg."""
        first, second = pair.baseline, pair.candidate
        ok = np.asarray((first.outcome == Outcome.OK) & (second.outcome == Outcome.OK))
        view = compared_rows(pair.requests, ok)
        self._requests += int(ok.sum())
        self._unequal_outputs += _add(
            self._outputs, (first.outputs, second.outputs), (first.keys, second.keys), view
        )
        if first.features and second.features:
            self._traced += int(ok.sum())
            traced = (first.features, second.features)
            self._unequal_features += _add(self._features, traced, ({}, {}), view)

    def finish(self) -> Floor:
        """The floor so far."""
        return Floor(
            outputs=tuple(f for name, s in self._outputs.items() for f in s.floors(name)),
            features=tuple(f for name, s in self._features.items() for f in s.floors(name)),
            requests=self._requests,
            output_mismatch_share=self._unequal_outputs / max(self._requests, 1),
            feature_mismatch_share=self._unequal_features / max(self._traced, 1),
        )

    def state(self) -> State:
        """Everything, as arrays that `from_state` continues from."""
        counts = [self._requests, self._unequal_outputs, self._traced, self._unequal_features]
        names = [list(self._outputs), list(self._features)]
        state: State = {"head": bytes_from_value([names, counts])}
        for i, sums in enumerate((*self._outputs.values(), *self._features.values())):
            state |= under(str(i), sums.state())
        return state

    @classmethod
    def from_state(cls, state: State) -> FloorBuilder:
        """Continues from `state()`."""
        builder = cls()
        (outputs, features), counts = value_from_bytes(state["head"])
        requests, unequal_outputs, traced, unequal_features = counts
        builder._requests = requests
        builder._unequal_outputs = unequal_outputs
        builder._traced = traced
        builder._unequal_features = unequal_features
        for i, name in enumerate((*outputs, *features)):
            group = builder._outputs if i < len(outputs) else builder._features
            group[name] = _ColumnSums.from_state(inside(str(i), state))
        return builder


def _add(
    sums: dict[str, _ColumnSums],
    tensors: tuple[Tensors, Tensors],
    keys: tuple[dict[str, Keys], dict[str, Keys]],
    view: ComparedRows,
) -> int:
    """Adds one batch of tensors; returns how many requests no tolerance would excuse."""
    first, second = tensors
    marked = np.zeros(len(view.requests), dtype=np.bool_)
    for name in first:
        if name not in second:
            continue
        column = sums.setdefault(name, _ColumnSums())
        pair = aligned(
            view.take(first[name]),
            view.take(second[name]),
            (keys[0].get(name), keys[1].get(name)),
            column.labels if name in keys[0] else (),
        )
        marked |= view.owners(column.add(pair))
    return int(marked.sum())


def _size(matrix: np.ndarray[Any, Any]) -> Floats:
    """|value| where finite, else 0; words have no size."""
    if matrix.dtype == object:
        return np.zeros(matrix.shape)
    size = np.abs(matrix.astype(np.float64))
    return np.where(np.isfinite(size), size, 0.0)
