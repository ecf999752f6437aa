"""The floor from A/A pairs, batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from harness.core.observations import Outcome, PairBatch
from harness.core.tensors import Array, Bools, Tensors, held_bytes, holds_nested
from harness.diff.any_size import any_size
from harness.diff.columns import ComparedRows, Keys, aligned, compared_rows
from harness.diff.floor import Floor
from harness.diff.floor_columns import ColumnSums, Scales, scales_of
from harness.diff.nested import laid_out
from harness.diff.sample import LIMIT

_MOST_HELD = 128 << 20
"""Bytes of held pairs: heavy ones fix the scales before LIMIT rows are there."""


class FloorBuilder:
    """Collects the floor from A/A pairs, batch by batch; batch boundaries do not matter.

    The first pairs are held until LIMIT rows are there, which fix the scales of all columns. Of a model
    with answers so heavy that as many do not fit into memory, fewer rows fix them.

    Args:
      uncounted: tensors and columns that do not make a request differ, under the baseline's names:
        what the policy expects to change, what comes after fitted constants.
      random: as `Floor.random`; these make none differ either.
      exact: as `ModelGraph.exact`, of the baseline.
      coarse: as `ModelGraph.coarse`, the same.
    """

    def __init__(
        self,
        uncounted: Collection[str] = (),
        random: Mapping[str, str] | None = None,
        *,
        exact: Collection[str] = (),
        coarse: Collection[str] = (),
    ) -> None:
        self._exact = frozenset(exact)
        self._coarse = frozenset(coarse)
        self._random = dict(random or {})
        self._uncounted = frozenset(uncounted) | self._random.keys()
        self._held: list[PairBatch] = []
        self._held_rows = self._held_bytes = 0
        self._scales: dict[str, dict[str, Scales]] | None = None
        self._outputs: dict[str, ColumnSums] = {}
        self._features: dict[str, ColumnSums] = {}
        self._requests = 0
        self._unequal_outputs = 0
        self._traced = 0
        self._unequal_features = 0

    @any_size
    def update(self, pair: PairBatch) -> None:
        """Adds A/A pairs: `candidate` holds the baseline's second leg."""
        if self._scales is not None:
            self._add(pair, self._scales)
            return
        self._held.append(pair)
        self._held_rows += int(pair.requests.rows[_answered(pair)].sum())
        self._held_bytes += sum(
            held_bytes(array)
            for seen in (pair.baseline, pair.candidate)
            for group in (seen.outputs, seen.features, seen.trace_outputs)
            for array in group.values()
        )
        if self._held_rows >= LIMIT or self._held_bytes >= _MOST_HELD:
            self._fix_scales()

    @any_size
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
        values: dict[str, _Parts] = {"outputs": {}, "features": {}}
        for pair in self._held:
            view = compared_rows(pair.requests, _answered(pair))
            first = pair.baseline
            _keep(values["outputs"], first.outputs, first.keys, view)
            _keep(values["features"], first.features, {}, view)
        scales = {
            # Features are looked up and scaled, answers are sums of many terms: see `scales`.
            group: {
                name: scales_of(
                    parts,
                    lent=group == "outputs",
                    exact=name in self._exact,
                    coarse=name in self._coarse,
                )
                for name, parts in found.items()
            }
            for group, found in values.items()
        }
        self._scales = scales
        held, self._held = self._held, []
        for pair in held:
            self._add(pair, scales)

    def _add(self, pair: PairBatch, scales: dict[str, dict[str, Scales]]) -> None:
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
        sums: dict[str, ColumnSums],
        tensors: tuple[Tensors, Tensors],
        keys: tuple[dict[str, Keys], dict[str, Keys]],
        view: ComparedRows,
        scales: Mapping[str, Scales],
    ) -> int:
        """Adds one batch of tensors; returns how many requests count as different."""
        first, second = tensors
        marked = np.zeros(len(view.requests), dtype=np.bool_)
        for name in first:
            if name not in second:
                continue
            if name not in sums:
                sums[name] = ColumnSums(name, scales.get(name, Scales()), self._uncounted)
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


_Parts = dict[str, list[tuple[Keys, Array]]]
"""Tensor → its columns' labels and values, batch by batch."""


def _answered(pair: PairBatch) -> Bools:
    return np.asarray(
        (pair.baseline.outcome == Outcome.OK) & (pair.candidate.outcome == Outcome.OK)
    )


def _keep(found: _Parts, tensors: Tensors, keys: dict[str, Keys], view: ComparedRows) -> None:
    """Collects one batch's tensors."""
    for name, tensor in tensors.items():
        parts = found.setdefault(name, [])
        values = view.take(tensor)
        if holds_nested(values):
            parts.append((("",), laid_out(values, values, view).values.baseline))
            continue
        pair = aligned(values, values, (keys.get(name), keys.get(name)))
        parts.append((pair.labels, pair.baseline))
