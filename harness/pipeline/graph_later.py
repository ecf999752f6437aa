"""What differs behind the first differences: steps there that make of the baseline's values what the baseline makes are none.

A version written otherwise holds other operators, attributes and constants at steps that nothing is wrong with. Each is
fed the baseline's values, so that what differs before it does not count. Batch by batch: at any time, no more is held
than the values of one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.core.tensors import Array, Nested
from harness.core.traffic import RequestBatch
from harness.diff.changes import (
    MEANING_OF_AXIS,
    Change,
    ChangeKind,
    Divergence,
    later_changes,
    may_be_alike,
)
from harness.diff.distance import FLOAT_TOLERANCE
from harness.diff.tensor_trace import TensorTrace
from harness.diff.whole import apart_whole
from harness.pipeline.graph_answers import Answering, fitting
from harness.pipeline.graph_opening import GraphPassError
from harness.sandbox.tracing import Edit

_REWRITTEN = 10.0 * FLOAT_TOLERANCE
"""Relative difference of one step's result that other operators for it may leave."""


def told_later(
    found: Sequence[Divergence],
    behind: Sequence[Divergence],
    *,
    partners: Mapping[str, str],
    running: Sequence[Answering],
    used: Sequence[RequestBatch],
    traces: Mapping[str, TensorTrace],
) -> tuple[Change, ...]:
    """What differs behind the first differences, by itself and in effect.

    Args:
      found: the first differences.
      behind: of tensors that differ behind them, each from the nearest compared ones.
      partners: baseline's tensor → candidate's.
      running: per side a copy that returns every tensor whole; () where there is none, and whatever is written
        otherwise is told.
      used: batches that were compared.
      traces: what was seen of each compared tensor of the baseline.
    """
    own = [step for step in behind if not step.farther]
    doubtful = [step for step in own if may_be_alike(step)]
    alike: Mapping[str, bool] = {}
    if doubtful and running:
        alike = _made_alike(doubtful, partners, running, used, traces)
    return later_changes(found, [s for s in own if not alike.get(s.baseline, _is_by_opset(s))])


def _is_by_opset(step: Divergence) -> bool:
    """Whether nothing but the opset differs, of which most operators' versions compute the same."""
    return all(
        change.kind is ChangeKind.OPSET
        or (change.kind is ChangeKind.ATTRIBUTE and change.name == MEANING_OF_AXIS)
        for change in step.changes
    )


def _made_alike(
    steps: Sequence[Divergence],
    partners: Mapping[str, str],
    running: Sequence[Answering],
    used: Sequence[RequestBatch],
    traces: Mapping[str, TensorTrace],
) -> dict[str, bool]:
    """Whether steps make the same of the same, by the baseline's tensors at their ends; not of those that cannot be fed."""
    old, new = running
    sources = {step: [name for name in step.last_equal if name in partners] for step in steps}
    fed = {partners[name]: name for names in sources.values() for name in names}
    ends = tuple(dict.fromkeys(step.candidate for step in steps))
    try:
        copy = new.laid.copy(Edit(tensors=ends, patched=tuple(fed)))
        fed = {theirs: ours for theirs, ours in fed.items() if theirs in copy.fed}
        left = [s for s in steps if all(partners[name] in fed for name in sources[s])]
        asked = [step.baseline for step in left]
        with new.laid.tracer(copy) as runner:
            patched = Answering(laid=new.laid, copy=copy, runner=runner)
            for batch in used:
                wanted = dict.fromkeys([*(step.baseline for step in left), *fed.values()])
                ours = old.values(batch, list(wanted), {})
                theirs = new.values(batch, list(fed), {})
                given = {b: fitting(ours[a], theirs.get(b)) for b, a in fed.items()}
                made = patched.values(batch, [step.candidate for step in left], given)
                rows = int(batch.rows.sum())
                left = [
                    s
                    for s in left
                    if _equals(
                        traces[s.baseline], ours.get(s.baseline), made.get(s.candidate), rows
                    )
                ]
    except GraphPassError:
        return {}
    same = {step.baseline for step in left}
    return {name: name in same for name in asked}


def _equals(
    trace: TensorTrace, before: Array | Nested | None, after: Array | Nested | None, rows: int
) -> bool:
    """Whether a step makes the same, but for the rounding of one that is written otherwise."""
    if before is None or after is None:
        return False
    tolerance = np.fmax(trace.tolerance, _REWRITTEN)
    return not apart_whole(before, after, rows=rows, tolerance=tolerance).rows.any()
