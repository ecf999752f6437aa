"""What a live batch must look like; a batch that does not is refused whole."""

from __future__ import annotations

import numpy as np

from harness.core.errors import TrafficError, nearest
from harness.core.live import LiveGuardrail
from harness.judge.exposures import Requests
from harness.judge.live_plan import Labels, LiveBatch, LivePlan
from harness.judge.overlap import MAX_STEPS
from harness.judge.units import within_bounds


def check_batch(
    plan: LivePlan, batch: LiveBatch, due: int, until_ns: int | None, steps: frozenset[float]
) -> None:
    """Refuses a batch that the judge cannot take, before anything of it is added.

    Args:
      plan: what is asked.
      batch: what came.
      due: number that must come now.
      until_ns: end of the batch before; None = there was none.
      steps: propensities seen so far.

    Raises:
      TrafficError: it skips a number, goes back in time, lacks a column, names no units, or holds a
        value, a propensity or a label outside its range.
    """
    where = f"batch {batch.number}"
    if batch.number > due:
        what = f"batch {due} has not come yet"
        raise TrafficError(where, what, "Send batches in order; repeat the missing one.")
    if until_ns is not None and batch.until_ns < until_ns:
        raise TrafficError(where, "it ends before the one before it", "Send batches in order.")
    carried = [g for g in plan.guardrails if g.label_maturity_s is None]
    _check_columns(where, batch.requests, carried, named=not plan.block_s)
    _check_times(where, batch, until_ns)
    if plan.split() and len(steps.union(batch.requests.propensity.tolist())) > MAX_STEPS:
        what = f"more than {MAX_STEPS} different propensities since the start"
        raise TrafficError(where, what, "Ramp in steps.")
    if plan.split():
        _check_possible(where, batch.requests)
    for guardrail in carried:
        values = batch.requests.values[guardrail.name]
        its = f"{where}, guardrail {guardrail.name}"
        within_bounds(its, values, np.isnan(values), guardrail.bounds)
    labelled = {g.name: g for g in plan.guardrails if g.label_maturity_s is not None}
    for name, labels in batch.labels.items():
        if name not in labelled:
            what = f"labels for '{name}', which takes none"
            remedy = f"Name a guardrail with a label maturity; {nearest(name, labelled)}"
            raise TrafficError(where, what, remedy)
        _check_labels(where, labels, labelled[name])


def _check_columns(
    where: str, requests: Requests, carried: list[LiveGuardrail], *, named: bool
) -> None:
    names = {guardrail.name for guardrail in carried}
    if names != set(requests.values):
        what = f"values of {sorted(requests.values)}"
        raise TrafficError(where, what, f"Give those of {sorted(names)}.")
    columns = (
        requests.unit, requests.candidate, requests.propensity, *requests.values.values(),
        *requests.left_out.values(),
    )  # fmt: skip
    if any(len(column) != len(requests) for column in columns):
        raise TrafficError(where, "columns of different lengths", "Give one row a request.")
    if named and any(not isinstance(name, str) or not name for name in requests.unit.tolist()):
        what = "a request carries no unit"
        raise TrafficError(where, what, "Name a user or a session for each.")
    if not np.all((requests.propensity >= 0.0) & (requests.propensity <= 1.0)):
        what = "a propensity is missing or outside [0, 1]"
        raise TrafficError(where, what, "Record the split that was in force.")


def _check_possible(where: str, requests: Requests) -> None:
    chance = np.where(requests.candidate, requests.propensity, 1.0 - requests.propensity)
    if not np.all(chance > 0.0):
        what = "a request is in an arm whose propensity is 0"
        raise TrafficError(where, what, "Record the split that was in force.")


def _check_times(where: str, batch: LiveBatch, until_ns: int | None) -> None:
    times = batch.requests.ts_ns
    if not len(times):
        return
    early = until_ns is not None and times[0] < until_ns
    if early or times[-1] >= batch.until_ns or np.any(times[1:] < times[:-1]):
        what = "its requests are not in order between the batch before and its end"
        raise TrafficError(where, what, "Sort by arrival; deliver each request once.")


def _check_labels(where: str, labels: Labels, guardrail: LiveGuardrail) -> None:
    if not len(labels.unit) == len(labels.value) == len(labels.ts_ns):
        raise TrafficError(where, "label columns of different lengths", "Give one row a label.")
    if np.isnan(labels.value).any():
        raise TrafficError(where, "a label is NaN", "Leave out what is not known yet.")
    its = f"{where}, labels of guardrail {guardrail.name}"
    within_bounds(its, labels.value, np.zeros(len(labels.value), np.bool_), guardrail.bounds)
