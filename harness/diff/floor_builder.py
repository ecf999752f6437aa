"""The floor from A/A pairs, batch by batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np

from harness.core.observations import Outcome, PairBatch
from harness.core.tensors import Array, Bools, Floats, Ints, Tensors, holds_nested
from harness.diff.columns import (
    Aligned,
    ComparedRows,
    Keys,
    aligned,
    column_name,
    compared_rows,
)
from harness.diff.distance import (
    FLOOR_FACTOR,
    base_tolerance,
    compare_rows,
    compare_whole,
    robust_scale,
    typical_scale,
)
from harness.diff.floor import SWALLOWED, ColumnFloor, Floor
from harness.diff.nested import laid_out
from harness.diff.sample import LIMIT, thinned

_Scales = tuple[float, float]
"""(`robust_scale`, `typical_scale`) of a column."""


class _ColumnSums:
    """Running figures of one tensor's columns.

    Args:
      tensor: the baseline's name.
      scales: column label → its scales, fixed before the first row; a class met later has none.
      uncounted: tensor and column names that do not make a request differ.
    """

    def __init__(
        self, tensor: str, scales: Mapping[str, _Scales], uncounted: Collection[str]
    ) -> None:
        self.labels: Keys = ()
        self._tensor = tensor
        self._scales = scales
        self._uncounted = uncounted
        self._rows = 0
        self._unlike_rows = 0
        self._wide = False
        self._base = 0.0
        self._scale: Floats = np.zeros(0)
        self._typical: Floats = np.zeros(0)
        self._counted: Bools = np.zeros(0, dtype=np.bool_)
        self._largest: Floats = np.zeros(0)
        self._relative: Floats = np.zeros(0)
        self._unequal: Ints = np.zeros(0, dtype=np.int64)

    def add(self, pair: Aligned) -> Bools:
        """Adds rows; returns which of them count as different, shape (R,)."""
        self._grow(pair)
        self._rows += len(pair.baseline)
        if pair.unlike:
            self._unequal = self._unequal + len(pair.baseline)
            self._unlike_rows += len(pair.baseline)
            return np.full(len(pair.baseline), bool(self._counted.any()))
        self._base = base_tolerance(pair.baseline.dtype, pair.candidate.dtype)
        whole, width = pair.wide or self._wide, pair.baseline.shape[1]
        part = slice(1 if whole else width)
        compare = compare_whole if whole else compare_rows
        difference = compare(
            pair.baseline,
            pair.candidate,
            self._base,
            self._scale[part],
            typical=self._typical[part],
        )
        cells: Bools = difference.mismatch
        absolute, relative = difference.absolute, difference.relative
        if whole:
            cells = np.asarray(cells.any(axis=1, keepdims=True))
            absolute = absolute.max(axis=1, keepdims=True, initial=0.0)
            relative = relative.max(axis=1, keepdims=True, initial=0.0)
        # A later batch may have fewer columns.
        wider = ((0, 0), (0, len(self.labels) - cells.shape[1]))
        cells = np.pad(cells, wider)
        absolute, relative = np.pad(absolute, wider), np.pad(relative, wider)
        self._largest = np.maximum(self._largest, absolute.max(axis=0, initial=0.0))
        self._relative = np.maximum(self._relative, relative.max(axis=0, initial=0.0))
        self._unequal = self._unequal + cells.sum(axis=0, dtype=np.int64)
        return np.asarray(cells[:, self._counted].any(axis=1), dtype=np.bool_)

    def _grow(self, pair: Aligned) -> None:
        labels, more = pair.labels, len(pair.labels) - len(self.labels)
        if self.labels and (more <= 0 or self._wide):
            return
        self.labels, self._wide = labels, pair.wide
        found = [self._scales.get(label, (0.0, 0.0)) for label in labels]
        self._scale, self._typical = np.array(found).reshape(-1, 2).T
        names = [{self._tensor, column_name(self._tensor, label)} for label in labels]
        self._counted = np.array([own.isdisjoint(self._uncounted) for own in names])
        self._largest = np.pad(self._largest, (0, more))
        self._relative = np.pad(self._relative, (0, more))
        self._unequal = np.pad(self._unequal, (0, more), constant_values=self._unlike_rows)

    def floors(self) -> list[ColumnFloor]:
        """The figures as values."""
        return [self._floor(i, label) for i, label in enumerate(self.labels)]

    def _floor(self, index: int, label: str) -> ColumnFloor:
        noisy = bool(self._unequal[index] > 0)
        relative = float(self._relative[index])
        return ColumnFloor(
            name=column_name(self._tensor, label),
            tensor=self._tensor,
            column=label,
            largest=float(self._largest[index]),
            relative=relative,
            scale=float(self._scale[index]),
            typical=float(self._typical[index]),
            rows=self._rows,
            mismatch_share=float(self._unequal[index]) / max(self._rows, 1),
            nondeterministic=noisy,
            # What is compared exactly gets no tolerance: its noise counts by its share alone.
            unprovable=noisy and self._base > 0 and FLOOR_FACTOR * relative > SWALLOWED,
        )


class FloorBuilder:
    """Collects the floor from A/A pairs, batch by batch; batch boundaries do not matter.

    The first pairs are held until LIMIT rows are there, which fix the scales of all columns.

    Args:
      uncounted: tensors and columns that do not make a request differ, under the baseline's names:
        what the policy expects to change, what comes after fitted constants.
      random: as `Floor.random`; these make none differ either.
    """

    def __init__(
        self, uncounted: Collection[str] = (), random: Mapping[str, str] | None = None
    ) -> None:
        self._random = dict(random or {})
        self._uncounted = frozenset(uncounted) | self._random.keys()
        self._held: list[PairBatch] = []
        self._held_rows = 0
        self._scales: dict[str, dict[str, dict[str, _Scales]]] | None = None
        self._outputs: dict[str, _ColumnSums] = {}
        self._features: dict[str, _ColumnSums] = {}
        self._requests = 0
        self._unequal_outputs = 0
        self._traced = 0
        self._unequal_features = 0

    def update(self, pair: PairBatch) -> None:
        """Adds A/A pairs: `candidate` holds the baseline's second leg."""
        if self._scales is not None:
            self._add(pair, self._scales)
            return
        self._held.append(pair)
        self._held_rows += int(pair.requests.rows[_answered(pair)].sum())
        if self._held_rows >= LIMIT:
            self._fix_scales()

    def finish(self) -> Floor:
        """The floor so far; scales that are not fixed yet are fixed by what there is."""
        if self._scales is None:
            self._fix_scales()
        return Floor(
            outputs=tuple(f for sums in self._outputs.values() for f in sums.floors()),
            features=tuple(f for sums in self._features.values() for f in sums.floors()),
            requests=self._requests,
            random=tuple(self._random.items()),
            output_mismatch_share=self._unequal_outputs / max(self._requests, 1),
            feature_mismatch_share=self._unequal_features / max(self._traced, 1),
        )

    def _fix_scales(self) -> None:
        values: dict[str, _Columns] = {"outputs": {}, "features": {}}
        for pair in self._held:
            view = compared_rows(pair.requests, _answered(pair))
            first = pair.baseline
            _keep(values["outputs"], first.outputs, first.keys, view)
            _keep(values["features"], first.features, {}, view)
        scales = {
            group: {
                name: {label: _scales(_first(parts)) for label, parts in columns.items()}
                for name, columns in tensors.items()
            }
            for group, tensors in values.items()
        }
        self._scales = scales
        held, self._held = self._held, []
        for pair in held:
            self._add(pair, scales)

    def _add(self, pair: PairBatch, scales: dict[str, dict[str, dict[str, _Scales]]]) -> None:
        first, second = pair.baseline, pair.candidate
        ok = _answered(pair)
        view = compared_rows(pair.requests, ok)
        self._requests += int(ok.sum())
        self._unequal_outputs += self._marked(
            self._outputs,
            (first.outputs, second.outputs),
            (first.keys, second.keys),
            view,
            scales["outputs"],
        )
        if first.features and second.features:
            self._traced += int(ok.sum())
            traced = (first.features, second.features)
            self._unequal_features += self._marked(
                self._features, traced, ({}, {}), view, scales["features"]
            )

    def _marked(
        self,
        sums: dict[str, _ColumnSums],
        tensors: tuple[Tensors, Tensors],
        keys: tuple[dict[str, Keys], dict[str, Keys]],
        view: ComparedRows,
        scales: Mapping[str, Mapping[str, _Scales]],
    ) -> int:
        """Adds one batch of tensors; returns how many requests count as different."""
        first, second = tensors
        marked = np.zeros(len(view.requests), dtype=np.bool_)
        for name in first:
            if name not in second:
                continue
            if name not in sums:
                sums[name] = _ColumnSums(name, scales.get(name, {}), self._uncounted)
            ours, theirs = view.take(first[name]), view.take(second[name])
            if holds_nested(ours):
                laid = laid_out(ours, theirs, view)
                for part, owned in ((laid.values, laid.view), (laid.unlike, laid.unlike_view)):
                    if owned.total:
                        marked |= owned.owners(sums[name].add(part))
                continue
            pair = aligned(
                ours,
                theirs,
                (keys[0].get(name), keys[1].get(name)),
                sums[name].labels if name in keys[0] else (),
            )
            marked |= view.owners(sums[name].add(pair))
        return int(marked.sum())


def _scales(values: Array) -> _Scales:
    return robust_scale(values), typical_scale(values)


_Columns = dict[str, defaultdict[str, list[Array]]]
"""Tensor → column label → its values, batch by batch."""


def _answered(pair: PairBatch) -> Bools:
    return np.asarray(
        (pair.baseline.outcome == Outcome.OK) & (pair.candidate.outcome == Outcome.OK)
    )


def _keep(found: _Columns, tensors: Tensors, keys: dict[str, Keys], view: ComparedRows) -> None:
    """Collects the columns of one batch's tensors."""
    for name, tensor in tensors.items():
        columns = found.setdefault(name, defaultdict(list))
        values = view.take(tensor)
        if holds_nested(values):
            columns[""].append(laid_out(values, values, view).values.baseline[:, 0])
            continue
        pair = aligned(values, values, (keys.get(name), keys.get(name)))
        if pair.wide:
            columns[""].append(thinned(pair.baseline))
            continue
        for i, label in enumerate(pair.labels):
            columns[label].append(pair.baseline[:, i])


def _first(parts: list[Array]) -> Array:
    """The first LIMIT rows of a column."""
    return np.concatenate(parts)[:LIMIT]
